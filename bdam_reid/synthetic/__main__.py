"""`python -m bdam_reid.synthetic OUT --identities N --seed S`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bdam_reid.synthetic.writer import SyntheticError, write_synthetic


def main() -> int:
    """Draw the set that the command line asks for; 1 if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m bdam_reid.synthetic",
        description="Draw a synthetic pedestrian set in the layout of CUHK-PEDES.",
    )
    parser.add_argument("out", type=Path, help="a new or empty folder")
    parser.add_argument("--identities", type=int, default=800, help="persons in all splits (default: 800)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: 0)")
    parser.add_argument(
        "--test-identities", type=int, help="test persons, and as many for validation (default: an eighth)"
    )
    parser.add_argument("--processes", type=int, help="drawing processes (default: one a core)")
    arguments = parser.parse_args()
    try:
        pictures = write_synthetic(
            arguments.out,
            arguments.identities,
            arguments.seed,
            test_identities=arguments.test_identities,
            processes=arguments.processes,
        )
    except SyntheticError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was kept", file=sys.stderr)
        return 130
    print(f"{arguments.out}: {pictures} synthetic pictures of {arguments.identities} persons")
    return 0


if __name__ == "__main__":
    sys.exit(main())
