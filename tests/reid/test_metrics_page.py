"""docs/metrics.md names the fields that a metrics.json has, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from documented import fields, told

from bdam_reid.evaluate import Options, evaluate_run
from bdam_reid.methods import PRESETS

ELSEWHERE = {
    *(f"protocols.PROTOCOL.rerank.{name}" for name in ("top", "pair_ms", "query_ms", "preferred")),
    "protocols.PROTOCOL.attributes",
}
"""Fields that the tests of re-ranking and of MoSAIC hold against the page."""


def test_the_page_names_the_fields_of_real_evaluations(
    finished: Path, clip_run: Path, domains: Path, tmp_path: Path
) -> None:
    met = told(json.loads((finished / "metrics.json").read_text()))
    met |= told(json.loads((clip_run / "metrics.json").read_text()))
    options = Options(clip_run, root=domains / "one", output=tmp_path, k_reciprocal=True)
    met |= told(evaluate_run(options, PRESETS).metrics)
    assert met == fields() - ELSEWHERE


def test_a_field_that_the_page_lacks_is_named() -> None:
    with pytest.raises(AssertionError, match=r"what protocols\.test\.results\.same\.r2 is"):
        told({"protocols": {"test": {"results": {"same": {"r2": 1.0}}}}})
