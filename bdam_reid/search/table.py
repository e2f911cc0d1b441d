"""What a CSV file says of the images of a folder: `--table`."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from bdam_reid.config import ConfigError
from bdam_reid.data.printable import shortened
from bdam_reid.data.records import QueryError
from bdam_reid.search.columns import TIME, moment
from bdam_reid.search.names import parse_name, whole_of

PATH = "path"
_NAME = re.compile(r"[^<=>]{1,100}")
EARLIEST, LATEST = -62_135_596_800.0, 253_370_764_800.0
"""When the years 1 and 9999 begin: what is hours later, as frames of a video are, can be written as a date still."""


class Table(NamedTuple):
    """What is known of images."""

    names: tuple[str, ...] = ()
    """Of the columns."""
    rows: Mapping[str, tuple[str, ...]] = {}
    """By path within the folder, the text of each column; empty where it is unknown."""

    def of(self, picture: str) -> tuple[str, ...] | None:
        """The row of a picture, which persons found in it have too; None if there is none. A frame without one has that
        of its video, but a later time."""
        picture = whole_of(picture)
        file, seconds, _ = parse_name(picture)
        said = self.rows.get(picture, self.rows.get(file))
        if said is None or seconds is None or picture in self.rows or TIME not in self.names:
            return said
        place = self.names.index(TIME)
        return (*said[:place], _later(said[place], seconds), *said[place + 1 :])


def read_table(path: Path) -> Table:
    """Read a CSV file in UTF-8 whose first line names its columns: `path`, of each image within the folder, and any
    others, such as camera, person and time; times as `columns.moment` reads them.

    Raises: ConfigError, with the number of the line, if it is none, or says two things of an image.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = [name.strip() for name in next(lines, [])]
            if PATH not in header or len({*header}) < len(header) or not all(header):
                raise ConfigError(
                    f"the first line of {path} must name its columns, each once, path among them, got "
                    f"{shortened(', '.join(header))!r}"
                )
            if other := [name for name in header if not (name.isprintable() and _NAME.fullmatch(name))]:
                raise ConfigError(
                    "names of columns must be of printable characters but < = >, at most 100, as filters name them, "
                    f"got {shortened(other[0])!r} in the first line of {path}"
                )
            place = header.index(PATH)
            rows: dict[str, tuple[str, ...]] = {}
            time = header.index(TIME) if TIME in header else None
            for line in lines:
                if not line:
                    continue
                where = f"line {lines.line_num} of {path}"
                if len(line) != len(header):
                    raise ConfigError(f"{where} must have {len(header)} fields, got {len(line)}")
                if time is not None and line[time].strip():
                    _check_time(line[time].strip(), where)
                key = Path(line[place].strip()).as_posix()
                said = tuple(field.strip() for at, field in enumerate(line) if at != place)
                if rows.setdefault(key, said) != said:
                    raise ConfigError(f"{where} says of {shortened(key)!r} something else than a line before")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the table {path}: {error}") from error
    return Table(tuple(name for name in header if name != PATH), rows)


def _later(time: str, seconds: float) -> str:
    return time and datetime.fromtimestamp(moment(time) + seconds, timezone.utc).isoformat(timespec="milliseconds")


def _check_time(text: str, where: str) -> None:
    try:
        seconds = moment(text)
    except QueryError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not EARLIEST <= seconds < LATEST:
        raise ConfigError(
            f"{where}: a time must be of the years 1 to 9998, got {shortened(text)!r}: a number is seconds since 1970, "
            "not thousandths"
        )
