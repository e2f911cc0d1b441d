"""Evaluation of a trained run: `python -m bdam_reid.evaluate RUN`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def parse(run: Annotated[Path, tyro.conf.Positional]) -> Path:
        """Evaluate the best checkpoint of a run.

        Args:
            run: Folder that training wrote.
        """
        return run

    run = tyro.cli(parse, args=arguments)
    # After the arguments: help, or word of a mistake in them, does not wait for torch.
    from bdam_reid.runs import user_errors

    with user_errors():
        from bdam_reid.evaluator import evaluate

        evaluate(run)


if __name__ == "__main__":
    main()
