"""Writes the set in the layout of CUHK-PEDES."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from bdam_reid.synthetic.drawing import render
from bdam_reid.synthetic.output import SyntheticError, draw_all, new_folder, save
from bdam_reid.synthetic.people import Item, Outfit, Person, Shot, sample_person, sample_shots
from bdam_reid.synthetic.sentences import Caption, write_captions, write_texts
from bdam_reid.synthetic.visible import visible_slots, visible_traits
from bdam_reid.synthetic.wardrobe import sample_wardrobe

_BY_KEY = ("texts", "attributes", "statements")
# The clothing-change file of each split that has one.
_CHANGES = {"test": "clothing_change.json", "val": "clothing_change_val.json"}
# Shots of the outfits of one person; a training person has a rarely seen third outfit by chance.
_SHOTS = {"train": (3, 2), "val": (4, 2), "test": (4, 2)}
_THIRD_OUTFIT = 0.3


@dataclass(frozen=True)
class _Picture:
    """One picture in all files but its own: `changed` if it belongs to a clothing-change gallery only."""

    key: str
    identity: int
    split: str
    changed: bool
    captions: tuple[Caption, Caption]
    texts: dict[str, str]
    attributes: dict[str, Any]


def write_synthetic(
    out: Path, identities: int, seed: int, *, test_identities: int | None = None, processes: int | None = None
) -> int:
    """Write a synthetic pedestrian set in CUHK-PEDES' layout; see the package for its files.

    Args:
        out: a folder that does not exist yet, or is empty.
        identities: persons in all three splits together.
        seed: the same seed gives the same bytes, for any number of processes.
        test_identities: persons in the test split, and as many in the validation split; an eighth by default.
        processes: by default one for each core that this process may use.
    Returns: the number of pictures.
    Raises: SyntheticError if the arguments do not fit, `out` is in use, or the disk is full; nothing is left then.
    """
    from bdam_reid.synthetic.ceiling import ceilings  # a module that runs by itself, of which Python would warn

    held_out = max(2, identities // 8) if test_identities is None else test_identities
    if held_out < 2 or identities - 2 * held_out < 2:
        raise SyntheticError(
            f"each of the three splits needs 2 identities or more, got {held_out} each for validation and "
            f"test of {identities} in all: raise --identities, or change --test-identities"
        )
    splits = ["train"] * (identities - 2 * held_out) + ["val"] * held_out + ["test"] * held_out
    with new_folder(out) as folder:
        draw = partial(_draw_person, folder, seed)
        with draw_all(draw, list(enumerate(splits, start=1)), processes) as people:
            count = _write_index(folder, chain.from_iterable(people))
        (folder / "ceilings.json").write_text(json.dumps(ceilings(folder), indent=1) + "\n", encoding="utf-8")
        return count


def _draw_person(root: Path, seed: int, job: tuple[int, str]) -> list[_Picture]:
    """Draw all pictures of one person; everything follows from the seed and the identity's number."""
    identity, split = job
    rng = Random(f"{seed}/person/{identity}")
    person, counts = sample_person(rng), [*_SHOTS[split]]
    if split == "train" and rng.random() < _THIRD_OUTFIT:
        counts.append(1)
    pictures = []
    for number, outfit in enumerate(sample_wardrobe(rng, person, len(counts))):
        changed = split != "train" and number > 0
        for index, shot in enumerate(sample_shots(rng, counts[number], f"{seed}/{identity}/{number}")):
            folder = "clothing_change" if changed else f"camera{shot.camera + 1}"
            key = f"{folder}/{identity:05d}_{number}{index}.jpg"
            save(render(person, outfit, shot, seed), root / "imgs" / key)
            captions, texts = write_captions(person, outfit, shot), write_texts(person, outfit, shot)
            attributes = _attributes(person, outfit, number, shot)
            pictures.append(_Picture(key, identity, split, changed, captions, texts, attributes))
    return pictures


def _attributes(person: Person, outfit: Outfit, number: int, shot: Shot) -> dict[str, Any]:
    drawn = ("stature", "skin_rgb", "hair_rgb")
    return {
        "identity": {name: value for name, value in asdict(person).items() if name not in drawn},
        "outfit": {name: _item_attributes(item) for name, item in outfit.items().items()},
        "outfit_index": number,
        "bag_side": outfit.bag_side if outfit.bag is not None else None,
        "camera": shot.camera + 1,
        "viewpoint": shot.viewpoint,
        "occluded": shot.occluder != "none",
        "visible": visible_traits(person, outfit, shot),
        "visible_slots": visible_slots(person, outfit, shot),
    }


def _item_attributes(item: Item) -> dict[str, str | None]:
    return {"kind": item.kind, "colour": item.colour, "pattern": item.pattern, "second_colour": item.second}


def _write_index(folder: Path, pictures: Iterable[_Picture]) -> int:
    """Write all files but the pictures, as these come; their number."""
    changes: dict[str, dict[str, list[Any]]] = {split: {"queries": [], "gallery": []} for split in _CHANGES}
    count = 0
    with ExitStack() as stack:
        raw, texts, attributes, statements = (
            stack.enter_context(_lines(folder / name, ends))
            for name, ends in (("reid_raw.json", "[]"), *((f"{name}.json", "{}") for name in _BY_KEY))
        )
        for picture in pictures:
            count += 1
            key = f"{json.dumps(picture.key)}: "
            texts(key + _json(picture.texts))
            attributes(key + _json(picture.attributes))
            statements(key + _json(_statements(picture)))
            if not picture.changed:
                raw(_json(_record(picture)))
            if picture.split in changes:
                _add_change(changes[picture.split], picture)
    for split, name in _CHANGES.items():
        lists = (f"{_json(key)}: [\n{_entries(found)}\n]" for key, found in changes[split].items())
        (folder / name).write_text("{" + ",\n".join(lists) + "}\n", encoding="utf-8")
    return count


@contextmanager
def _lines(path: Path, ends: str) -> Iterator[Callable[[str], None]]:
    """A JSON list or object whose entries are written one a line: the encoder of the standard library is fast without
    indentation only.
    """
    with path.open("w", encoding="utf-8") as file:
        separator = ends[0] + "\n"

        def add(entry: str) -> None:
            nonlocal separator
            file.write(separator + entry)
            separator = ",\n"

        yield add
        file.write(f"\n{ends[1]}\n")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _entries(values: Iterable[Any]) -> str:
    return ",\n".join(map(_json, values))


def _add_change(change: dict[str, list[Any]], picture: _Picture) -> None:
    """The captions of persons in their first outfit are queries, their pictures in another the gallery."""
    if picture.changed:
        change["gallery"].append({"captions": _texts(picture), **_worn(picture)})
    else:
        change["queries"] += _queries(picture)


def _statements(picture: _Picture) -> list[dict[str, Any]]:
    return [{"identity": caption.identity, "clothing": caption.clothing} for caption in picture.captions]


def _texts(picture: _Picture) -> list[str]:
    return [caption.text for caption in picture.captions]


def _record(picture: _Picture) -> dict[str, Any]:
    return {
        "split": picture.split,
        "captions": _texts(picture),
        "file_path": picture.key,
        "processed_tokens": [text.lower().rstrip(".").split() for text in _texts(picture)],
        "id": picture.identity,
    }


def _queries(picture: _Picture) -> Iterator[dict[str, Any]]:
    return ({"caption": text, **_worn(picture)} for text in _texts(picture))


def _worn(picture: _Picture) -> dict[str, Any]:
    return {"id": picture.identity, "outfit": picture.attributes["outfit_index"], "file_path": picture.key}
