"""Image sets of every layout, on small files of the published forms, bad ones among them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from image_files import (
    photo,
    rows,
    shots,
    write_folders,
    write_ltcc,
    write_market,
    write_msmt17,
    write_prcc,
    write_table,
)

from bdam_reid.data.__main__ import main
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.junk import same_camera, same_camera_or_outfit
from bdam_reid.data.records import Dataset, DatasetError, Query, Record

UNSEEN = "queries whose camera is not known, for whom images by the same one count"


def found(dataset: Dataset) -> dict[str, int]:
    return {finding.what: finding.count for finding in dataset.report.findings}


def count(part: str, persons: range = range(99)) -> int:
    return sum(shot.part == part and shot.person in persons for shot in shots())


def test_duke_is_told_from_market_by_its_names(tmp_path: Path) -> None:
    market, duke = (load_dataset(write_market(tmp_path / str(frames), frames)) for frames in (False, True))
    assert (market.name, duke.name) == ("market-1501", "dukemtmc-reid")
    assert [(r.identity, r.camera) for r in duke.train] == [(r.identity, r.camera) for r in market.train]
    assert {query.camera for query in duke.protocols["test"].queries} == {1, 2, 3}
    assert len(market.protocols["test"].gallery) == len(duke.protocols["test"].gallery) + 1  # the distractor
    assert [domain.name for domain in duke.domains] == ["True"] and str(duke) == f"dukemtmc-reid at {tmp_path / 'True'}"


def test_distractors_are_nobody_to_learn_or_to_search_for(tmp_path: Path) -> None:
    root = write_market(tmp_path / "market")
    for folder in ("bounding_box_train", "query"):
        photo(root / folder / "0000_c2s1_000009_00.jpg")
    dataset = load_dataset(root)
    assert found(dataset)["images of nobody (person 0) in training or query skipped"] == 2
    assert 0 not in {entry.identity for entry in (*dataset.train, *dataset.protocols["test"].queries)}


@pytest.mark.parametrize("second", [False, True])
def test_msmt17(tmp_path: Path, second: bool) -> None:
    dataset = load_dataset(write_msmt17(tmp_path / "msmt", second), hold_out=False)
    assert dataset.name == "msmt17" and list(dataset.protocols) == ["test"]
    # Those of both lists are trained on.
    assert len(dataset.train) == count("train") and {r.identity for r in dataset.train} == set(range(6))
    test = dataset.protocols["test"]
    # Persons of the test are counted from 0 again in the lists, and are others.
    assert {query.identity for query in test.queries} == set(range(6, 10))
    assert {record.identity for record in test.gallery} == set(range(6, 11))
    assert {record.camera for record in (*dataset.train, *test.gallery)} == {1, 2, 3}
    key = dataset.train[0].key
    assert key.startswith("mask_train_v2/0000/0000_000_" if second else "train/0000/0000_000_")
    assert dataset.train[0].camera == int(key.split("_")[4 if second else 2])
    held = load_dataset(tmp_path / "msmt")
    assert (
        {record.identity for record in held.protocols["val"].gallery}
        == {0}
        == {r.identity for r in held.train} ^ (set(range(6)))
    )


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("list_query.txt", "0000/0000_000_01_x.jpg", "line 3 must be a path, a space and the number"),
        ("list_gallery.txt", "0000/a.jpg 0", "line 3 must be a path, .* camera third"),
        ("list_train.txt", "../a/0000_000_01_x.jpg 0", "line 3 must name a file below"),
    ],
)
def test_a_line_of_msmt17_that_is_none_is_an_error(tmp_path: Path, file: str, line: str, said: str) -> None:
    path = write_msmt17(tmp_path / "msmt") / file
    first, second, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, second, line, *others]))
    with pytest.raises(DatasetError, match=f"{file}, {said}"):
        load_dataset(tmp_path / "msmt")


def test_lists_of_msmt17_without_images_are_an_error(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path / "msmt")
    (root / "list_val.txt").unlink()
    assert len(load_dataset(root, hold_out=False).train) < count("train")
    shutil.rmtree(root / "test")
    with pytest.raises(DatasetError, match="train and test or mask_train_v2 and mask_test_v2 beside the lists"):
        load_dataset(root)


# Folders


def test_folders_of_persons_in_parts(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "people")
    photo(root / "train" / "person 2" / "more" / "deep.jpg")
    (root / "train" / "person 2" / "notes.txt").touch()
    photo(root / "val" / "person 20" / "a.jpg")
    photo(root / "gallery" / "loose.jpg")
    photo(root / "train" / ".thumbnails" / "a.jpg")
    dataset = load_dataset(root)
    assert dataset.name == "folders" and found(dataset) == {
        "folders beside train, query and gallery not read": 1,
        "images that lie in no person's folder not read": 1,
        "folders within a person's folder not read": 1,
        UNSEEN: count("query"),
        "training identities held out for validation, as there is no such split": 1,
    }
    test = dataset.protocols["test"]
    assert (len(test.queries), len(test.gallery)) == (count("query"), count("gallery"))
    assert {len({r.identity for r in part}) for part in (dataset.train, test.queries, test.gallery)} == {5, 4}
    assert {query.identity for query in test.queries} < {record.identity for record in test.gallery}
    assert all(record.camera is None for record in (*dataset.train, *test.gallery))
    val = dataset.protocols["val"]
    assert len(val.queries) == 1 and val.junk is not None
    # A query does not find itself, but all others of its person.
    assert val.junk(val.queries, val.gallery).tolist() == [[True] + [False] * (len(val.gallery) - 1)]


def test_one_folder_a_person_has_a_test_part_held_out(tmp_path: Path) -> None:
    for person in range(24):
        for number in range(3):
            photo(tmp_path / f"{person:02d}" / f"{number}.png")
    dataset = load_dataset(tmp_path)
    test, val = dataset.protocols["test"], dataset.protocols["val"]
    assert [record.key for record in test.gallery[::3]] == ["00/0.png", "10/0.png", "20/0.png"]
    assert [record.key for record in val.gallery[::3]] == ["01/0.png", "12/0.png", "23/0.png"]
    assert [query.image for query in test.queries] == [record.path for record in test.gallery[::3]]
    assert {r.split for r in test.gallery} == {"test"} and {r.split for r in val.gallery} == {"val"}
    assert len(dataset.train) == 3 * 18
    assert "persons held out for the test" in str(dataset.report) and "00/0.png, 10/0.png" in str(dataset.report)
    # With all of the others for training.
    assert len(load_dataset(tmp_path, hold_out=False).train) == 3 * 21


def test_persons_with_an_image_each_say_how_to_go_on(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "people", ("query", "gallery"))
    for person in range(20, 32):
        photo(root / "train" / f"person {person}" / "a.jpg")
    with pytest.raises(DatasetError, match=r"gallery of val .* too few images: --data.hold-out False"):
        load_dataset(root)
    assert len(load_dataset(root, hold_out=False).train) == 12


def test_queries_and_a_gallery_alone_are_for_evaluation(tmp_path: Path) -> None:
    dataset = load_dataset(write_folders(tmp_path / "people", ("query", "gallery")))
    assert dataset.train == () and list(dataset.protocols) == ["test"]
    shutil.rmtree(tmp_path / "people" / "gallery")
    with pytest.raises(DatasetError, match=r"both query and gallery of .* found none in gallery"):
        load_dataset(tmp_path / "people")


def test_a_person_of_training_and_query_is_an_error(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "people")
    photo(root / "query" / "person 3" / "x.jpg")
    with pytest.raises(DatasetError, match="both train and test, such as that of train/person 3/"):
        load_dataset(root)


def test_folders_that_are_no_persons_are_no_set(tmp_path: Path) -> None:
    for folder in ("bounding_box_train", "bounding_box_test", "gt_bbox"):
        photo(tmp_path / "m" / folder / "0001_c1.jpg")
    photo(tmp_path / "one" / "imgs" / "a.jpg")
    for root in (tmp_path / "m", tmp_path / "one"):
        with pytest.raises(DatasetError, match=r"found none of: .* one folder a person"):
            load_dataset(root)


# Tables


def test_a_table(tmp_path: Path) -> None:
    dataset = load_dataset(write_table(tmp_path / "csv", rows()))
    test = dataset.protocols["test"]
    assert dataset.name == "csv" and {r.camera for r in dataset.train} == {0, 1, 2}
    assert (len(test.queries), len(test.gallery)) == (count("query"), count("gallery"))
    assert all(record.path.is_file() and record.key == f"train/{record.path.name}" for record in dataset.train)
    assert UNSEEN not in found(dataset)
    without = load_dataset(write_table(tmp_path / "without", rows(cameras=False)))
    assert found(without)[UNSEEN] == count("query")
    assert all(record.camera is None for record in without.train)
    train = [row for row in rows() if row["split"] == "train"]
    held = load_dataset(write_table(tmp_path / "held", train))
    assert found(held)["persons held out for the test, as there are neither queries nor a gallery"] == 1


def test_a_table_may_have_validation_persons_more_columns_and_repeat_itself(tmp_path: Path) -> None:
    entries = [{**row, "note": "x"} for row in rows()]
    for row in entries:
        if row["identity"] in ("p5", "p6"):
            row["split"] = "val"
    root = write_table(tmp_path / "csv", [*entries, entries[0]])
    text = (root / "images.csv").read_text().replace("gate 2", "")
    (root / "images.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())  # as spreadsheets write it
    dataset = load_dataset(root, hold_out=False)
    columns, repeated = "columns of images.csv not read", "rows of images.csv that repeat another skipped"
    assert found(dataset) == {columns: 1, repeated: 1, UNSEEN: 2}
    assert len({record.identity for record in dataset.protocols["val"].gallery}) == 2
    assert {record.camera for record in dataset.train} == {None, 0, 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: ["path,person,split", *lines[1:]], "line 1 must name the columns .* identity is lacking"),
        (lambda lines: [line.replace(",", ";") for line in lines], "separated by commas, got path;identity;split"),
        (lambda lines: [], "line 1 must name .* got nothing"),
        (lambda lines: [*lines[:2], lines[2].replace("train", "test")], "line 3: split must be one of .* got test"),
        (lambda lines: [*lines[:2], "a.jpg,p1"], "line 3 must have a field for each column, got fewer"),
        (lambda lines: [*lines[:2], "a.jpg,p1,train,gate 1,more"], "line 3 must have .* got more"),
        (lambda lines: [*lines[:2], "a.jpg, ,train,gate 1"], "line 3 must have a path and an identity"),
        (lambda lines: [*lines[:2], "../a.jpg,p1,train,"], "line 3 must name a file below the folder"),
        (lambda lines: [*lines, lines[1].replace("p1", "p2")], r"has another identity, .* in line 2: remove"),
        (lambda lines: [*lines, lines[1].replace(",train,", ",query,")], r"or split in line 2: remove"),
        (lambda lines: [line for line in lines if ",query," not in line], "of both splits query and gallery"),
        (lambda lines: [*lines[:2], 'a.jpg,"p1'], "line 3: unexpected end of data"),
        (lambda lines: ["path,identity,split", "train/1.jpg,\udcff,train"], "cannot read .*write it as text in UTF-8"),
    ],
)
def test_a_bad_table_names_the_line(tmp_path: Path, change: Callable[[list[str]], list[str]], said: str) -> None:
    file = write_table(tmp_path / "csv", rows()) / "images.csv"
    lines = change(file.read_text().splitlines())
    file.write_text("\n".join(lines), errors="surrogateescape")
    with pytest.raises(DatasetError, match=said) as error:
        load_dataset(tmp_path / "csv")
    assert "\n" not in str(error.value)


# Sets in which clothes change


def test_prcc_asks_both_questions(tmp_path: Path) -> None:
    root = write_prcc(tmp_path / "prcc")
    photo(root / "rgb" / "val" / "001" / "A_cropped_rgb001.jpg")
    photo(root / "rgb" / "train" / "002" / "D_cropped_rgb001.jpg")
    dataset = load_dataset(root)
    assert dataset.name == "prcc" and found(dataset) == {
        "folders of more images of training persons not read": 1,
        "images without a person's number and a camera skipped": 1,
        "training identities held out for validation, as there is no such split": 1,
    }
    asked = {name: (p.split, p.clothes) for name, p in dataset.protocols.items()}
    assert asked == {
        "val": ("val", "same"),
        "clothing_change_val": ("val", "other"),
        "test": ("test", "same"),
        "clothing_change": ("test", "other"),
    }
    same, other = dataset.protocols["test"], dataset.protocols["clothing_change"]
    assert same.gallery == other.gallery and {(r.camera, r.outfit) for r in same.gallery} == {(1, 0)}
    assert {(q.camera, q.outfit) for q in same.queries} == {(2, 0)}
    assert {(q.camera, q.outfit) for q in other.queries} == {(3, 1)}


def test_ltcc_asks_both_questions(tmp_path: Path) -> None:
    root = write_ltcc(tmp_path / "ltcc")
    photo(root / "test" / "who.png")
    dataset = load_dataset(root)
    assert dataset.name == "ltcc"
    assert found(dataset)["images whose name has no person, clothes and camera skipped"] == 1
    assert list(dataset.protocols) == ["val", "clothing_change_val", "test", "clothing_change"]
    standard, other = dataset.protocols["test"], dataset.protocols["clothing_change"]
    assert (standard.queries, standard.gallery) == (other.queries, other.gallery)
    assert (standard.clothes, other.clothes) == ("same", "other")
    assert {record.outfit for record in other.gallery} == {0, 1}


# Junk


def test_an_unknown_camera_makes_junk_of_the_image_itself_only() -> None:
    paths = [Path(f"{n}.jpg") for n in range(4)]
    gallery = [Record(path, path.name, 1, "test", camera=c) for path, c in zip(paths, (None, 1, 1, None), strict=True)]
    queries = [Query(image=path, identity=1, camera=c) for path, c in zip(paths, (None, 1, None, 2), strict=True)]
    queries.append(Query(image=paths[0], identity=2))
    assert same_camera(queries, gallery).int().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_an_unknown_camera_makes_junk_of_copies(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("query.jpg", "copy.jpg", "as_long.jpg", "longer.jpg")}
    for path, content in zip(paths.values(), (b"ab", b"ab", b"ac", b"abc"), strict=True):
        path.write_bytes(content)
    gallery = [Record(path, name, 1, "test") for name, path in paths.items()]
    gallery.append(Record(paths["copy.jpg"], "known", 1, "test", camera=1))
    gallery.append(Record(paths["copy.jpg"], "another", 2, "test"))
    assert same_camera([Query(image=paths["query.jpg"], identity=1)], gallery).int().tolist() == [[1, 1, 0, 0, 0, 0]]


def test_junk_of_other_clothes() -> None:
    worn = ((1, 0, 1), (1, 0, 2), (1, 1, 1), (1, 1, 2), (2, 0, 2))  # person, outfit, camera
    gallery = [Record(Path(f"{n}.jpg"), f"{n}", p, "test", camera=c, outfit=o) for n, (p, o, c) in enumerate(worn)]
    query = Query(image=Path("q.jpg"), identity=1, camera=1, outfit=0)
    assert same_camera_or_outfit([query], gallery).int().tolist() == [[1, 1, 1, 0, 0]]


WRITERS = [write_market, write_msmt17, write_prcc, write_ltcc, write_folders, lambda root: write_table(root, rows())]


@pytest.mark.parametrize("write", WRITERS)
def test_the_check_understands_them(
    tmp_path: Path, write: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "set")
    assert main(["check", str(root)]) == 0
    shutil.copy(load_dataset(root).train[0].path, load_dataset(root).protocols["test"].gallery[0].path)
    assert main(["check", str(root)]) == 1
    assert "WRONG  1 images in train and in test" in capsys.readouterr().out
