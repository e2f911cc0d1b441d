"""Training: `python -m bdam_reid.train PRESET [--field value ...]`."""

from __future__ import annotations

from collections.abc import Sequence

from bdam_reid.config import parse_config


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    config = parse_config(arguments)
    # After the arguments: help, or word of a mistake in them, does not wait for torch.
    from bdam_reid.runs import user_errors

    with user_errors():
        from bdam_reid.trainer import train

        train(config)


if __name__ == "__main__":
    main()
