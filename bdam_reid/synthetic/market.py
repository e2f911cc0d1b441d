"""Writes a set in the layout of Market-1501: pictures, whose names say who is seen by which camera.

    bounding_box_train/   half of the persons, or all but so many
    query/                of the others, one picture of every person by every camera that saw the person
    bounding_box_test/    more pictures of the same persons by the same cameras, and of people who only pass by
    attribute/market_attribute.mat   attributes of the persons, labelled as those of Market-1501 are
    synthetic.json        {identities, test_identities, seed, domain}: that the set is drawn, and how

A name such as 0002_c1s1_000451_01.jpg gives the person (0000 is somebody who passes by, -1 a picture that shows a part
of somebody), the camera and its sequence, the frame, and the box in it: 00 is drawn by hand, 01 is found by a detector.
A person wears one outfit. The two domains differ in cameras, light and dress.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from bdam_reid.data.attributes import FOLDER, MARKET, Labels
from bdam_reid.synthetic.drawing import render
from bdam_reid.synthetic.labels import labels, write_labels
from bdam_reid.synthetic.output import SyntheticError, draw_all, new_folder, save
from bdam_reid.synthetic.painter import HEIGHT, WIDTH
from bdam_reid.synthetic.people import Shot, sample_person, sample_shots
from bdam_reid.synthetic.wardrobe import Season, sample_outfit

# Persons and passers-by are counted on, and a name has four digits for a person and two more for the frame.
_MOST_PEOPLE = 9999
_TRAIN, _QUERY, _GALLERY = "bounding_box_train", "query", "bounding_box_test"


@dataclass(frozen=True)
class Domain:
    """A city in a season: its cameras, and how people dress."""

    cameras: Sequence[int]
    season: Season


_BRIGHT = ("white", "yellow", "orange", "red", "pink", "light blue", "blue", "green", "teal", "beige")
_DARK = ("black", "gray", "navy", "burgundy", "olive", "brown", "purple", "beige")
DOMAINS = (Domain(range(0, 6), Season(0.85, _BRIGHT)), Domain(range(6, 12), Season(0.1, _DARK)))


def write_market(
    root: Path,
    identities: int,
    seed: int,
    domain: int = 0,
    *,
    test_identities: int | None = None,
    processes: int | None = None,
) -> int:
    """Write a synthetic pedestrian set in Market-1501's layout; see the module for its files.

    Args:
        root: a folder that does not exist yet, or is empty.
        identities: persons for training and test together.
        seed: the same seed gives the same bytes, for any number of processes.
        domain: 0 is a summer in the six places of the default layout, 1 a winter in six others.
        test_identities: persons of the test, half of all by default; half as many others pass by.
        processes: by default one for each core that this process may use.
    Returns: the number of pictures.
    Raises: SyntheticError if the arguments do not fit, `root` is in use, or the disk is full; nothing is left then.
    """
    tested = identities - identities // 2 if test_identities is None else test_identities
    trained, passers = identities - tested, tested // 2
    if min(trained, tested) < 2 or identities + passers > _MOST_PEOPLE:
        raise SyntheticError(
            f"training and test need 2 identities or more each, and all, with half as many as are tested who pass by, "
            f"are at most {_MOST_PEOPLE}, got {tested} for the test of {identities}: change --identities or "
            "--test-identities"
        )
    roles = ["train"] * trained + ["test"] * tested + ["passer"] * passers
    with new_folder(root) as folder:
        draw = partial(_draw_person, folder, seed, domain)
        with draw_all(draw, list(enumerate(roles, start=1)), processes) as drawn:
            people = list(drawn)
        train, test = ({who.number: who.labels for who in people if who.role == role} for role in ("train", "test"))
        drawn_by = {"identities": identities, "test_identities": tested, "seed": seed, "domain": domain}
        (folder / "synthetic.json").write_text(json.dumps(drawn_by) + "\n", encoding="utf-8")
        write_labels(folder / FOLDER / f"{MARKET.struct}.mat", train, test)
        return sum(who.pictures for who in people)


class _Drawn(NamedTuple):
    """A person all of whose pictures are drawn."""

    number: int
    role: str
    pictures: int
    """How many."""
    labels: Labels


def _draw_person(root: Path, seed: int, domain: int, job: tuple[int, str]) -> _Drawn:
    """Draw all pictures of one person; everything follows from the seed, the domain and the person's number."""
    number, role = job
    place = DOMAINS[domain]
    rng = Random(f"{seed}/market/{domain}/{number}")
    person = sample_person(rng)
    outfit = sample_outfit(rng, person, place.season)
    cameras = rng.sample(place.cameras, 1 if role == "passer" else rng.randint(2, 4))
    rounds = 1 if role == "passer" else rng.randint(2, 3)
    # One round of all cameras after the other.
    shots = sample_shots(rng, rounds * len(cameras), f"{seed}/market/{domain}/{number}", cameras)
    for index, shot in enumerate(shots):
        image = render(person, outfit, shot, seed)
        cut = role == "passer" and rng.random() < 0.2
        if cut:
            image = image.crop((0, HEIGHT // 2, WIDTH, HEIGHT)).resize((WIDTH, HEIGHT))
        query = role == "test" and index < len(cameras)
        folder = _TRAIN if role == "train" else _QUERY if query else _GALLERY
        label = "-1" if cut else "0000" if role == "passer" else f"{number:04d}"
        save(image, root / folder / f"{label}_{_where(shot, place, number, index)}_{'00' if query else '01'}.jpg")
    return _Drawn(number, role, len(shots), labels(person, outfit))


def _where(shot: Shot, place: Domain, number: int, index: int) -> str:
    """The camera, its only sequence and the frame: people walk past one after the other."""
    return f"c{place.cameras.index(shot.camera) + 1}s1_{100 * number + 8 * index:06d}"
