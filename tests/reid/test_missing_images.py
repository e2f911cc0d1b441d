"""Images that are missing or broken: training says so and does without them, evaluation stops unless it may go on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_files import entries, write_image, write_set
from image_search import Brightness
from PIL import Image
from tiny_run import tiny, train_alone

from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.images import ImageError, decode_image, image_problem
from bdam_reid.data.records import DatasetError, Protocol, Query, Record
from bdam_reid.evaluate import Options, evaluate_run, main
from bdam_reid.evaluation.ranking import Embedder
from bdam_reid.evaluation.tables import describe


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", entries())


def cut(path: Path) -> None:
    """Leave the first half of a file, whose header is whole."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def images(root: Path, *persons: int) -> list[Path]:
    return [path for person in persons for path in sorted((root / "imgs" / "cam").glob(f"{person:04d}_*"))]


def findings(root: Path) -> dict[str, int]:
    found = load_dataset(root, allow_missing=True).report.findings
    return {finding.what: finding.count for finding in found if "images" in finding.what}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_a_look_tells_images_from_what_is_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    Image.effect_noise((60, 40), 50).convert("RGB").save(path, format=kind)
    assert image_problem(path) == ""
    path.write_bytes(path.read_bytes() + b"what some cameras append")
    assert image_problem(path) == ""
    path.write_bytes(b"not an image")
    assert image_problem(path) == "unreadable"
    path.write_bytes(b"")
    assert image_problem(path) == "unreadable"
    path.unlink()
    assert image_problem(path) == "missing"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_look_finds_files_that_were_cut(tmp_path: Path, kind: str) -> None:
    Image.effect_noise((60, 40), 50).convert("RGB").save(tmp_path / "a", format=kind)
    cut(tmp_path / "a")
    assert image_problem(tmp_path / "a") == "unreadable"


@pytest.mark.parametrize("name", ["a" * 5000 + ".jpg", "a\0b.jpg", "\ud800.jpg", "."])
def test_a_name_that_no_file_has_is_a_missing_file(tmp_path: Path, name: str) -> None:
    assert image_problem(tmp_path / name) == "missing"


@pytest.mark.parametrize("person", [10, 20], ids=["val", "test"])
def test_evaluation_without_all_its_images_is_refused_by_name(root: Path, person: int) -> None:
    first, second = images(root, person)
    first.unlink()
    cut(second)
    split = "val" if person == 10 else "test"
    expected = (
        rf"^1 missing and 1 unreadable of 4 {split} images \(cam/{first.name}, cam/{second.name}\).*--allow-missing"
    )
    with pytest.raises(DatasetError, match=expected):
        load_dataset(root)
    dataset = load_dataset(root, allow_missing=True)
    # Their records stay, for the count.
    assert len(dataset.protocols[split].gallery) == 4 and len(dataset.protocols[split].queries) == 8
    assert findings(root) == {
        f"{split} images missing (left out of the gallery)": 1,
        f"{split} images unreadable (left out of the gallery)": 1,
    }


def test_clothing_change_is_looked_at_too(root: Path) -> None:
    text = '{"queries": [{"caption": "A man.", "id": 20}], "gallery": [{"file_path": "b.jpg", "id": 20}]}'
    (root / "clothing_change.json").write_text(text)
    with pytest.raises(DatasetError, match=r"1 missing of 1 clothing_change images \(b\.jpg\)"):
        load_dataset(root)


def test_training_images_are_left_out_and_counted(root: Path) -> None:
    images(root, 3)[0].unlink()
    cut(images(root, 4)[1])
    dataset = load_dataset(root)
    assert len(dataset.train) == 8
    assert dataset.report.images["train"] == 8
    assert findings(root) == {
        "train images missing (not trained on)": 1,
        "train images unreadable (not trained on)": 1,
    }
    assert "1 train images unreadable (not trained on): cam/0004_1.jpg" in str(dataset.report)


def test_a_training_set_of_which_most_is_missing_is_refused(root: Path) -> None:
    for path in images(root, 1, 2, 3):
        path.unlink()
    with pytest.raises(DatasetError, match="6 missing of 10 train images"):
        load_dataset(root)


def test_the_held_out_persons_do_not_depend_on_the_files(tmp_path: Path) -> None:
    records = [{**record, "split": "train"} if record["split"] == "val" else record for record in entries()]
    root = write_set(tmp_path / "icfg", records, "ICFG-PEDES.json")
    images(root, 1)[0].unlink()
    with pytest.raises(DatasetError, match="1 missing of 1 val images"):
        load_dataset(root)


def test_market_images_are_looked_at(tmp_path: Path) -> None:
    for person in (3, 5, 7):
        for camera in (1, 2):
            write_image(tmp_path / "bounding_box_train" / f"{person:04d}_c{camera}.jpg")
    for folder in ("query", "bounding_box_test"):
        for camera in (1, 2):
            write_image(tmp_path / folder / f"0002_c{camera}.jpg")
    assert load_dataset(tmp_path).report.images == {"train": 4, "val": 2, "test": 4}
    for folder in ("query", "bounding_box_test"):
        cut(tmp_path / folder / "0002_c1.jpg")
    cut(tmp_path / "bounding_box_train" / "0005_c1.jpg")
    expected = r"1 unreadable of 2 query images .*; 1 unreadable of 2 test images \(bounding_box_test/0002_c1\.jpg\)"
    with pytest.raises(DatasetError, match=expected):
        load_dataset(tmp_path)
    assert len(load_dataset(tmp_path, allow_missing=True).train) == 3


def test_a_protocol_without_any_answer_is_found_when_it_is_read(tmp_path: Path) -> None:
    for person in (3, 5, 7):
        write_image(tmp_path / "bounding_box_train" / f"{person:04d}_c1.jpg")
        write_image(tmp_path / "bounding_box_train" / f"{person:04d}_c2.jpg")
    write_image(tmp_path / "query" / "0002_c1.jpg")
    write_image(tmp_path / "bounding_box_test" / "0002_c1.jpg")
    # Of the same camera: junk.
    with pytest.raises(DatasetError, match="gallery of test for some query, got none for all 1 queries and 1 images"):
        load_dataset(tmp_path)


# In training and evaluation


@pytest.fixture
def copied(people: Path, tmp_path: Path) -> Path:
    """The finished run's data set, to change."""
    return Path(shutil.copytree(people, tmp_path / "people"))


def broken_inside(path: Path) -> None:
    """Damage that only decoding finds: the file ends as it must."""
    Image.effect_noise((16, 32), 50).save(path, format="PNG")
    data = path.read_bytes()
    path.write_bytes(data[:60] + data[-12:])
    assert image_problem(path) == ""
    with pytest.raises(ImageError):
        decode_image(path, (32, 16))


def test_evaluation_stops_or_counts_in_metrics_and_tables(finished: Path, copied: Path, tmp_path: Path) -> None:
    gallery = load_dataset(copied).protocols["test"].gallery
    gallery[0].path.unlink()
    broken_inside(gallery[1].path)
    with pytest.raises(DatasetError, match="1 missing of 8 test images"):
        evaluate_run(Options(finished, root=copied, output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    main([str(finished), "--root", str(copied), "--output", str(tmp_path / "out"), "--allow-missing"])
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    test = metrics["protocols"]["test"]
    assert (test["missing_images"], test["queries_without_image"]) == (2, 4)
    for row in test["results"].values():
        # The captions of a missing image still describe somebody who is there in other images.
        assert (row["gallery"], row["queries"], row["queries_without_positive"]) == (6, 16, 0)
    assert metrics["protocols"]["clothing_change"]["missing_images"] == 0
    table = describe(metrics)
    assert "left out: 2 gallery images that are missing or unreadable" in table
    assert "4 queries whose own image is missing or unreadable" in table
    page = (tmp_path / "out" / "pictures" / "index.html").read_text()
    assert "left out: 2 gallery images" in page


def test_a_person_without_any_image_is_counted(finished: Path, copied: Path, tmp_path: Path) -> None:
    gallery = load_dataset(copied).protocols["test"].gallery
    for record in gallery:
        if record.identity == gallery[0].identity:
            record.path.unlink()
    options = Options(finished, root=copied, output=tmp_path / "out", split=("test",), allow_missing=True)
    metrics = evaluate_run(options).metrics
    test = metrics["protocols"]["test"]
    assert test["queries_without_image"] == test["results"]["same"]["queries_without_positive"] == 8
    assert "left out: 8 queries whose person is not in the gallery" in describe(metrics)


def test_what_only_decoding_finds_stops_evaluation_too(
    finished: Path, copied: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gallery = load_dataset(copied).protocols["test"].gallery
    for record in gallery[2:4]:
        broken_inside(record.path)
    with pytest.raises(SystemExit):
        main([str(finished), "--root", str(copied), "--output", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert f"2 of 8 test images cannot be read ({gallery[2].key}, {gallery[3].key})" in said.err
    # The report of the set has been printed.
    assert "test: 8 images of 2 persons, 16 captions" in said.out
    for record in (*gallery[:2], *gallery[4:]):
        broken_inside(record.path)
    with pytest.raises(DatasetError, match=r"8 of 8 test images cannot be read .* unpack the set again"):
        evaluate_run(Options(finished, root=copied, output=tmp_path / "out", allow_missing=True))


def test_training_checks_before_it_begins_and_records_what_it_leaves_out(copied: Path, tmp_path: Path) -> None:
    dataset = load_dataset(copied)
    test, first, second = dataset.protocols["test"].gallery[0], *dataset.train[:2]
    test.path.unlink()
    with pytest.raises(DatasetError, match="1 missing of 8 test images"):
        train_alone(tiny(copied, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    first.path.unlink()
    broken_inside(second.path)
    run = train_alone(tiny(copied, tmp_path / "run", "--data.allow-missing", "True", "--method.optim.epochs", "1"))
    log = (run / "log.txt").read_text()
    assert f"1 train images missing (not trained on): {first.key}" in log
    assert f"1 of {len(dataset.train) - 1} training images cannot be read, now {second.key}" in log
    recorded = json.loads((run / "environment.json").read_text())["data"]
    assert [(finding["what"], finding["count"]) for finding in recorded["findings"]][:2] == [
        ("train images missing (not trained on)", 1),
        ("test images missing (left out of the gallery)", 1),
    ]
    assert json.loads((run / "metrics.json").read_text())["protocols"]["test"]["missing_images"] == 1


def test_a_query_by_an_image_that_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(3)]
    for path in paths:
        write_image(path)
    gallery = tuple(Record(path, path.name, i, "test") for i, path in enumerate(paths))
    copies = [Path(shutil.copy(path, tmp_path / f"query{path.name}")) for path in paths]
    protocol = Protocol("test", tuple(Query(image=path, identity=i) for i, path in enumerate(copies)), gallery)
    copies[1].write_bytes(b"")
    embedder = Embedder(Brightness(), torch.device("cpu"))
    with pytest.raises(
        DatasetError, match=r"1 of 3 query images of test cannot be read \(query1\.jpg\).*--allow-missing"
    ):
        embedder.rank(protocol)
    ranking = replace(embedder, allow_missing=True).rank(protocol)
    assert ranking.query_ids.tolist() == [0, 2] and ranking.similarity()["all"].shape == (2, 3)
    assert (ranking.missing_images, ranking.queries_without_image) == (0, 1)
