"""Attribute labels of Market-1501 and DukeMTMC-reID: files in the published forms, bad ones included."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from attribute_files import DUKE_FIELDS, MARKET_FIELDS, Part, market_parts, part, write_images, write_market
from scipy.io import savemat

from bdam_reid.data.attributes import DUKE, MARKET, labels_of, read_attributes, with_attributes
from bdam_reid.data.datasets import load_dataset
from bdam_reid.data.records import DatasetError
from bdam_reid.synthetic import write_market as draw_market
from bdam_reid.synthetic.labels import labels
from bdam_reid.synthetic.people import sample_person
from bdam_reid.synthetic.wardrobe import sample_outfit


def test_the_experts_of_the_paper_come_out_of_the_schemas() -> None:
    """12 and 10 attributes in 27 and 23 fields; 35 and 26 states, of what one has or has not one alone."""
    for schema, attributes, fields, states in ((MARKET, 12, MARKET_FIELDS, 35), (DUKE, 10, DUKE_FIELDS, 26)):
        assert len(schema.states) == attributes
        assert sorted(schema.fields) == sorted(fields)
        assert sum(1 if names == ("no", "yes") else len(names) for names in schema.states.values()) == states


def test_market_is_read_by_the_names_of_its_fields(tmp_path: Path) -> None:
    table = read_attributes(write_market(tmp_path / "market_attribute.mat", *market_parts()))
    assert table.schema is MARKET
    assert set(table.persons) == {2, 3, 7, 11, 12, 1501}
    assert all(of.keys() == MARKET.states.keys() for of in table.persons.values())
    assert [table.labels(person)["age"] for person in (2, 7, 11, 12)] == ["young", "teenager", "adult", "old"]
    # 1 is long sleeves, and a dress.
    assert [table.labels(person)["up"] for person in (2, 7)] == ["long", "short"]
    assert [table.labels(person)["clothes"] for person in (3, 1501)] == ["dress", "pants"]
    assert [table.labels(person)["gender"] for person in (3, 1501)] == ["female", "male"]
    assert [table.labels(person)["hat"] for person in (2, 7)] == ["no", "yes"]
    assert [table.labels(person)["upcolour"] for person in (2, 7, 11, 12, 3)] == ["black", None, "red", None, None]
    assert table.labels(1501)["downcolour"] == "brown"
    assert table.several_colours == ("12 (upred, upblue)",)
    assert table.persons[11]["upcolour"] == MARKET.colours["up"].index("red")


def test_duke_has_the_other_polarity_and_colours_and_texts_in_a_matrix(tmp_path: Path) -> None:
    train = part(DUKE_FIELDS, ["0001", "12"], {"top": [1, 2], "shoes": [2, 1], "boots": [2, 1], "upbrown": [1, 2]})
    # A matrix of characters, whose rows MATLAB pads.
    train["image_index"] = np.array(["0001", "12  "])
    path = tmp_path / "duke_attribute.mat"
    savemat(path, {"duke_attribute": {"train": train, "test": part(DUKE_FIELDS, ["0005"], {})}})
    table = read_attributes(path)
    assert table.schema is DUKE and set(table.persons) == {1, 5, 12}
    assert [table.labels(person)["top"] for person in (1, 12)] == ["short", "long"]
    assert [table.labels(person)["shoes"] for person in (1, 12)] == ["light", "dark"]
    assert [table.labels(person)["boots"] for person in (1, 12)] == ["yes", "no"]
    assert [table.labels(person)["upcolour"] for person in (1, 12)] == [None, "brown"]


@pytest.mark.parametrize("folder", [".", "attribute"])
def test_records_and_queries_have_the_labels_of_their_persons(tmp_path: Path, folder: str) -> None:
    root = write_images(tmp_path / "set")
    bare = load_dataset(root)
    assert with_attributes(bare) is bare
    write_market(root / folder / "market_attribute.mat", *market_parts())
    dataset = load_dataset(root)
    assert {r.identity: labels_of(r)["age"] for r in dataset.train} == {7: "teenager", 11: "adult", 12: "old"}
    assert {labels_of(r)["age"] for r in dataset.protocols["val"].gallery} == {"young"}
    test = dataset.protocols["test"]
    assert [labels_of(query).get("gender") for query in test.queries] == ["female", None, "male"]
    by_person = {record.identity: labels_of(record) for record in test.gallery}
    assert by_person[0] == by_person[9] == {} and by_person[3]["clothes"] == "dress"
    found = {finding.what: (finding.count, *finding.examples) for finding in dataset.report.findings}
    assert found["test persons without attribute labels"] == (1, "9")
    assert found["persons whose upcolour is not labelled"][0] == 4
    assert found["persons labelled with several colours, which count as none"] == (1, "12 (upred, upblue)")
    assert "training persons without attribute labels" not in found
    # Nothing else changes.
    assert [r.key for r in dataset.train] == [r.key for r in bare.train]


def test_labels_of_the_other_set_are_refused_though_persons_have_the_same_numbers(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set")
    write_market(root / "market_attribute.mat", *market_parts())
    for path in root.glob("*/*.jpg"):
        path.rename(path.with_name(re.sub("(_c[0-9]).*", r"\1_f000001.jpg", path.name)))
    with pytest.raises(DatasetError, match=r"expected labels of dukemtmc-reid, .*, got those of market-1501"):
        load_dataset(root)


def bad(change: str) -> tuple[Part, Part]:
    train, test = market_parts()
    if change == "value":
        train["age"][1] = 5
    elif change == "half":
        train["hat"][0] = 1.5
    elif change == "nan":
        train["hat"][0] = np.nan
    elif change == "field":
        del test["upgreen"]
    elif change == "length":
        test["bag"] = np.array([1.0])
    elif change == "person":
        train["image_index"][2] = "x11"
    elif change == "twice":
        test["image_index"][0] = "0002"
    return train, test


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("value", r"expected 1 to 4 in train.age .*, got 5 of person 7"),
        ("half", r"expected 1 to 2 in train.hat .*, got 1.5 of person 2"),
        ("nan", r"expected 1 to 2 in train.hat .*, got nan of person 2"),
        ("field", r"expected a field upgreen in test "),
        ("length", r"expected 2 numbers in test.bag, one a person in .*, got 1 of"),
        ("person", r"expected numbers of persons in train.image_index .*, got 'x11'"),
        ("twice", r"expected the same labels wherever person 2 is "),
    ],
)
def test_what_cannot_be_right_is_an_error(tmp_path: Path, change: str, said: str) -> None:
    path = write_market(tmp_path / "market_attribute.mat", *bad(change))
    with pytest.raises(DatasetError, match=said):
        read_attributes(path)


def test_other_files_are_errors(tmp_path: Path) -> None:
    path, (train, test) = tmp_path / "market_attribute.mat", market_parts()
    for content, said in (
        ({"something": 1}, "expected a struct market_attribute or duke_attribute in .*, got something"),
        ({"market_attribute": {"train": train}}, "expected parts train and test in market_attribute .*, got train"),
        ({"market_attribute": 3}, "expected parts train and test in market_attribute .*, got none"),
    ):
        savemat(path, content)
        with pytest.raises(DatasetError, match=said):
            read_attributes(path)
    for content in (b"", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM", b"not a file of this kind" * 20):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match="cannot be read as a MATLAB file"):
            read_attributes(path)
    root = write_images(tmp_path / "set", training=(21, 22, 23, 24))
    write_market(root / "market_attribute.mat", train, test)
    with pytest.raises(DatasetError, match="none of a training person: is it another set's"):
        load_dataset(root)
    write_market(root / "attribute" / "market_attribute.mat", train, test)
    with pytest.raises(DatasetError, match="expected one file of attributes"):
        load_dataset(root)


def test_drawn_persons_are_labelled_in_the_published_form(tmp_path: Path) -> None:
    draw_market(tmp_path / "set", 8, seed=3, processes=1)
    dataset = load_dataset(tmp_path / "set")
    assert str(dataset) == f"synthetic market-1501 at {tmp_path / 'set'}"
    assert len({record.identity for record in dataset.train if labels_of(record)}) == 3
    assert all(labels_of(query) for query in dataset.protocols["test"].queries)
    assert not any("without attribute labels" in finding.what for finding in dataset.report.findings)


def test_drawn_labels_have_published_states_and_are_what_is_worn() -> None:
    rng, seen = Random(0), Counter[tuple[str, str | None]]()
    for _ in range(200):
        person = sample_person(rng)
        outfit = sample_outfit(rng, person)
        said = labels(person, outfit)
        assert said["gender"] == person.sex
        assert (said["hat"] == "yes") == (outfit.hat is not None)
        carried = [name for name in ("backpack", "bag", "handbag") if said[name] == "yes"]
        assert len(carried) == (outfit.bag is not None)
        assert (outfit.outer or outfit.upper).colour != "white" or said["upcolour"] == "white"
        seen.update(said.items())
    assert {name for name, _ in seen} == MARKET.states.keys()
    assert {state for state in seen if state[1] is not None} <= {
        (name, state) for name, states in MARKET.states.items() for state in states
    }
    # Every attribute varies, and colours without a published name are not labelled.
    assert all(len({state for name, state in seen if name == attribute}) > 1 for attribute in MARKET.states)
    assert 0 < seen["upcolour", None] < 60
