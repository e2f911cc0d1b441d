"""A gallery in Milvus's embedded form gives what the index that was uploaded gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_index import NAMES, TABLE
from tiny_gallery import Colours, update, write_photos

from bdam_reid.config import ConfigError
from bdam_reid.search.columns import where_of
from bdam_reid.search.index import milvus
from bdam_reid.search.index.milvus import MilvusGallery, upload
from bdam_reid.search.index.reader import open_index

pytest.importorskip("milvus_lite")


def test_a_collection_answers_as_its_indexes_do(tmp_path: Path) -> None:
    folder, place, uri = write_photos(tmp_path / "folder", *NAMES), tmp_path / "index", str(tmp_path / "milvus.db")
    update(place, folder, TABLE)
    index = open_index(place)
    assert upload(index, uri, "people", "north") == (12, 0)
    assert upload(index, uri, "people", "north") == (0, 0)
    gallery, query = MilvusGallery(uri, "people"), np.linspace(-1, 2, 12, dtype=np.float32)
    assert gallery.manifest == index.manifest
    questions = [
        {}, {"k": 3}, {"k": 100}, {"where": where_of(["camera=3", "camera=0"])}, {"one_per": "person", "k": 4},
        {"where": where_of(["time>=2026-11-27T08:03", "time<2026-11-27T08:08"])},
        {"where": where_of(['camera=3"] or'])},
    ]  # fmt: skip
    for question in questions:
        found, expected = gallery.entries(query, **question), index.entries(query, **question)
        assert [(entry.path, entry.about) for entry in found] == [(entry.path, entry.about) for entry in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.vector, other.vector, atol=1e-5)
            assert one.score == pytest.approx(other.score, abs=1e-4)
    (folder / NAMES[0]).unlink()
    write_photos(folder, "new.png")
    update(place, folder, TABLE)
    assert upload(open_index(place), uri, "people", "north") == (1, 1)
    assert upload(open_index(place), uri, "people", "south") == (12, 0)
    assert len(gallery.entries(query, 100)) == 24
    other = Colours()
    other.fingerprint = "others"
    update(tmp_path / "other", folder, embedder=other)
    with pytest.raises(ConfigError, match="the collection people is of another model"):
        upload(open_index(tmp_path / "other"), uri, "people", "north")
    with pytest.raises(ConfigError, match="has no collection nobody"):
        MilvusGallery(uri, "nobody")
    with pytest.raises(ValueError, match="k must be from 1 to 16,384, got 0"):
        gallery.entries(query, 0)


def test_without_pymilvus_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[milvus\]'"):
        MilvusGallery(str(tmp_path / "milvus.db"), "people")
