"""The papers' tables and figures, and this project's own experiments: `python -m bdam_reid.studies NAME`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from inspect import getdoc
from types import ModuleType

STUDIES = (
    "bdam",
    "fusion",
    "losses",
    "clustering",
    "comparison",
    "figures",
    "efficiency",
    "clothes",
    "rerank",
    "free-language",
    "attributes",
    "experts",
    "mta-clip",
)
"""A module each, whose `main` takes what follows the name."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: hands what follows the name of a study to it; exits with 2 if there is no such study."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in ("-h", "--help"):
        print(_help())
        return
    if not given or given[0] not in STUDIES:
        got = repr(given[0]) if given else "none"
        print(f"error: the study must be one of {', '.join(STUDIES)}, got {got}", file=sys.stderr)
        sys.exit(2)
    _module(given[0]).main(given[1:])


def _module(name: str) -> ModuleType:
    return import_module(f"bdam_reid.studies.{name.replace('-', '_')}")


def _help() -> str:
    lines = []
    for name in STUDIES:
        summary, *_ = (getdoc(_module(name)) or "").splitlines()
        lines.append(f"  {name:<15}{summary.partition(': `')[0].removesuffix('.')}")
    return "\n".join(["usage: python -m bdam_reid.studies NAME [options; NAME --help lists them]", "", *lines])


if __name__ == "__main__":
    main()
