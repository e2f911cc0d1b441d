"""`python -m bdam_reid.synthetic OUT --identities N --seed S`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bdam_reid.synthetic.market import DOMAINS, write_market
from bdam_reid.synthetic.output import SyntheticError
from bdam_reid.synthetic.writer import write_synthetic


def main() -> int:
    """Draw the set that the command line asks for; 1 if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m bdam_reid.synthetic",
        description="Draw a synthetic pedestrian set in the layout of CUHK-PEDES or Market-1501.",
    )
    parser.add_argument("out", type=Path, help="a new or empty folder")
    parser.add_argument("--identities", type=int, default=800, help="persons in all splits (default: 800)")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="the same seed gives the same bytes; the persons of a small set are in every larger one of its seed, so "
        "test on those of another (default: 0)",
    )
    parser.add_argument("--layout", choices=("cuhk-pedes", "market"), default="cuhk-pedes", help="default: cuhk-pedes")
    parser.add_argument(
        "--test-identities",
        type=int,
        help="test persons; cuhk-pedes: and as many for validation (default: an eighth); market: (default: half)",
    )
    parser.add_argument(
        "--domain", type=int, choices=range(len(DOMAINS)), help="market: its cameras, light and dress (default: 0)"
    )
    parser.add_argument("--processes", type=int, help="drawing processes (default: one a core)")
    asked = parser.parse_args()
    if asked.layout == "cuhk-pedes" and asked.domain is not None:
        parser.error("--domain does not go with --layout cuhk-pedes")
    try:
        if asked.layout == "market":
            pictures = write_market(
                asked.out,
                asked.identities,
                asked.seed,
                asked.domain or 0,
                test_identities=asked.test_identities,
                processes=asked.processes,
            )
        else:
            pictures = write_synthetic(
                asked.out,
                asked.identities,
                asked.seed,
                test_identities=asked.test_identities,
                processes=asked.processes,
            )
    except SyntheticError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was kept", file=sys.stderr)
        return 130
    print(f"{asked.out}: {pictures} synthetic pictures of {asked.identities} persons")
    return 0


if __name__ == "__main__":
    sys.exit(main())
