"""The test persons of a data set as a folder to be indexed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bdam_reid.data.datasets import load_dataset
from bdam_reid.search.__main__ import main


def test_the_test_gallery_of_a_data_set(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = load_dataset(people).protocols["test"].gallery
    main(["test-gallery", str(people), "--output", str(tmp_path / "gallery")])
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'gallery'}: {len(records)} photographs\n")
    with open(tmp_path / "gallery" / "table.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["person"], row["camera"]) for row in rows] == [(str(r.identity), str(r.camera)) for r in records]
    for row, record in zip(rows, records, strict=True):
        assert (tmp_path / "gallery" / "photographs" / row["path"]).read_bytes() == record.path.read_bytes()
    with pytest.raises(SystemExit):
        main(["test-gallery", str(tmp_path), "--output", str(tmp_path / "none")])
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ") and not (tmp_path / "none").exists()
