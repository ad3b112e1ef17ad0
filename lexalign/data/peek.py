"""The first row of a data set on this disk: enough to refuse a wrong column before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path

from lexalign.data.files import rows_of, split_file
from lexalign.errors import DataError
from lexalign.locate import Place
from lexalign.schema import Data


class Unreadable(Exception):
    """The message says what is wrong with the file."""


@dataclass(frozen=True, kw_only=True)
class FirstRow:
    """The file of a split and the columns its first row has."""

    file: Path
    columns: list[str]


def first_row(data: Data, place: Place, split: str) -> FirstRow:
    """The first row of a split; raises `Unreadable`."""
    assert place.path is not None
    try:
        path, kind = split_file(place.path, split, data.format)
        row = next((row for _, row in rows_of(path, kind)), None)
    except (DataError, OSError) as error:
        raise Unreadable(f"data.path={data.path}: {error}") from error
    if row is None:
        raise Unreadable(f"data.path={data.path}: {path} holds no rows")
    return FirstRow(file=path, columns=[str(name) for name in row])
