"""Read the first row of a data set on this disk, to refuse a wrong column before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path

from lexalign.config.paths import Location
from lexalign.config.schema import Data
from lexalign.data.files import find_split_file, read_rows
from lexalign.errors import DataError


class UnreadableFile(Exception):
    """A file cannot be read. The message gives the reason."""


@dataclass(frozen=True, kw_only=True)
class FirstRow:
    """The file of a split and the columns its first row has."""

    file: Path
    columns: list[str]


def read_first_row(data: Data, place: Location, split: str) -> FirstRow:
    """The first row of a split; raises `UnreadableFile`."""
    assert place.path is not None
    try:
        path, kind = find_split_file(place.path, split, data.format)
        row = next((row for _, row in read_rows(path, kind)), None)
    except (DataError, OSError) as error:
        raise UnreadableFile(f"data.path={data.path}: {error}") from error
    if row is None:
        raise UnreadableFile(f"data.path={data.path}: {path} holds no rows")
    return FirstRow(file=path, columns=[str(name) for name in row])
