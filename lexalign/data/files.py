"""The files of a data set on this disk, and their rows with the place each came from. Standard library, but for parquet (pyarrow)."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lexalign.errors import DataError

LONGEST_FIELD = 2**31 - 1
SUFFIXES = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def split_file(place: Path, split: str, wanted: str) -> tuple[Path, str]:
    """The file of a split and its format; raises DataError where there is none, or more than one."""
    if place.is_dir():
        suffixes = [suffix for suffix, name in SUFFIXES.items() if wanted in ("auto", name)]
        found = [place / f"{split}{suffix}" for suffix in suffixes if (place / f"{split}{suffix}").is_file()]
        if len(found) != 1:
            there = ", ".join(sorted(path.name for path in place.iterdir() if path.suffix in SUFFIXES)) or "none of a known format"
            what = " and ".join(path.name for path in found) if found else f"no {split}{' or '.join(suffixes)}, but {there}"
            raise DataError(f"{place}: holds {what}; there must be one file for the split {split!r}")
        return found[0], SUFFIXES[found[0].suffix]
    if split != "train":
        raise DataError(f"{place}: is one file, so it has no split {split!r}; give a folder with {split}.jsonl, or data.eval_split=null")
    known = SUFFIXES.get(place.suffix)
    if wanted == "auto" and known is None:
        raise DataError(f"{place}: the ending tells no format; type data.format=jsonl (or json, csv, parquet)")
    if wanted not in ("auto", known) and known is not None:
        raise DataError(f"{place}: data.format={wanted}, but the ending says {known}; type data.format=auto")
    return place, known if wanted == "auto" else wanted  # type: ignore[return-value]


def rows_of(path: Path, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with where it stands (`file:line`); raises DataError naming the line that cannot be read."""
    readers = {"jsonl": jsonl_rows, "json": json_rows, "csv": csv_rows, "parquet": parquet_rows}
    try:
        yield from readers[kind](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start} is {error.object[error.start]:#04x}); save it as UTF-8") from error


def jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One JSON object a line."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            if not line.strip():
                raise DataError(f"{where}: the line is empty; remove it")
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: is not JSON ({error.msg} at column {error.colno})") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}: holds {type(row).__name__}, not an object with columns")
            yield where, row


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One JSON list of objects."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        hint = "; it looks like one object a line: type data.format=jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{path}:{error.lineno}: is not JSON ({error.msg} at column {error.colno}){hint}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds {type(rows).__name__}; expected a list of objects")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number} is {type(row).__name__}, not an object with columns")
        yield f"{path}: row {number}", row


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Comma-separated values with a header line."""
    csv.field_size_limit(LONGEST_FIELD)  # the module's own limit, 128 KiB, is less than a long document
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="\0more", restval=None, strict=True)
        try:
            names = list(reader.fieldnames or [])
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"{path}:1: the header has {', '.join(map(repr, twice))} more than once; rename the columns")
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if "\0more" in row or None in row.values():
                    raise DataError(f"{where}: the row has another number of fields than the header ({len(names)})")
                yield where, dict(row)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.reader.line_num}: is not CSV ({error})") from error


def parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Apache Parquet, read in batches."""
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except arrow.ArrowInvalid as error:
        raise DataError(f"{path}: is not Parquet ({error})") from error
    number = 0
    for batch in file.iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield f"{path}: row {number}", row
