"""`python -m bdam_reid.data check ROOT [ROOT ...]`: what is wrong with data sets, and between them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from bdam_reid.engine.signals import handled_by, leave


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if something was found that makes results wrong."""
    parser = argparse.ArgumentParser(prog="python -m bdam_reid.data")
    check_parser = parser.add_subparsers(required=True, metavar="check").add_parser(
        "check",
        help="look for what is wrong with data sets",
        description="Look for what is wrong with data sets, and, if there are several, between them: missing and "
        "unreadable images, persons and images in several splits or sets, copies, captions. Exits with 1 if something "
        "makes results wrong. Images are the same if their content is: one that was scaled or compressed anew is not.",
    )
    check_parser.add_argument("roots", type=Path, nargs="+", metavar="ROOT", help="folder of a data set")
    check_parser.add_argument(
        "--decode", action="store_true", help="compare pixels, not bytes: finds images that are damaged inside; slower"
    )
    asked = parser.parse_args(arguments)
    with handled_by(leave):
        # After the arguments: help, or word of a mistake in them, does not wait for torch.
        from bdam_reid.engine.errors import user_errors

        with user_errors():
            return check([root.expanduser().absolute() for root in asked.roots], asked.decode)


def check(roots: Sequence[Path], decode: bool) -> int:
    """Print what is found in data sets; 1 if something makes results wrong."""
    from bdam_reid.data.audit import audit, listed, table
    from bdam_reid.data.contents import overlaps

    audits = []
    for root in dict.fromkeys(roots):
        audits.append(audit(root, decode))
        print(*table(audits[-1]), sep="\n", flush=True)
    findings = [finding for of in audits for finding in of.findings]
    for one, other in combinations(audits, 2):
        shared = overlaps(one.contents, other.contents)
        findings += shared
        compared = "no image in both" if one.contents and other.contents else "not compared"
        print(f"{one.name} and {other.name}", *(listed(shared) if shared else [f"  {compared}"]), sep="\n")
    wrong = sum(finding.wrong for finding in findings)
    print(f"{wrong} of {len(findings)} findings make results wrong" if wrong else "nothing that makes results wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
