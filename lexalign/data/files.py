"""The files of a data set on this disk, and their rows, each with its place. Only parquet needs a library (pyarrow)."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lexalign.config.paths import describe_path
from lexalign.errors import DataError

LONGEST = 1 << 24
"""Largest number of characters in a line of a jsonl file, and in a text of any file. A longer line shows that a line break is missing."""
SUFFIXES = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
FOREIGN = {
    b"\x1f\x8b": "is gzip-compressed; unpack it first",
    b"\x28\xb5\x2f\xfd": "is zstd-compressed; unpack it first",
    b"BZh": "is bzip2-compressed; unpack it first",
    b"PK\x03\x04": "is a zip archive (as .xlsx files are); unpack it, or save the table as CSV",
    b"\xff\xfe": "is UTF-16 or UTF-32; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
    b"PAR1": "is Parquet; name it .parquet",
}
"""First bytes of files whose content does not fit their suffix, with the message for each."""
Rows = Iterator[tuple[str, dict[str, Any]]]


def find_split_file(place: Path, split: str, data_format: str) -> tuple[Path, str]:
    """The file of a split and its format; raises DataError if there is none, or more than one."""
    if place.is_dir():
        suffixes = [suffix for suffix, name in SUFFIXES.items() if data_format in ("auto", name)]
        paths = [path for suffix in suffixes if (path := place / f"{split}{suffix}").exists() or path.is_symlink()]
        for path in paths:
            if not path.is_file():
                raise DataError(f"{path}: is {describe_path(path)}, not a file with rows")
        if len(paths) != 1:
            file_names = ", ".join(sorted(path.name for path in place.iterdir() if path.suffix in SUFFIXES)) or "none of a known format"
            contents = " and ".join(path.name for path in paths) if paths else f"no {split}{' or '.join(suffixes)}, but {file_names}"
            raise DataError(f"{place}: holds {contents}; there must be one file for the split {split!r}")
        return paths[0], SUFFIXES[paths[0].suffix]
    if split != "train":
        raise DataError(f"{place}: is one file, so it has no split {split!r}; give a folder with {split}.jsonl, or data.eval_split=null")
    file_format = SUFFIXES.get(place.suffix)
    if data_format == "auto" and file_format is None:
        raise DataError(f"{place}: the ending tells no format; type data.format=jsonl (or json, csv, parquet)")
    if data_format not in ("auto", file_format) and file_format is not None:
        raise DataError(f"{place}: data.format={data_format}, but the ending says {file_format}; type data.format=auto")
    return place, file_format if data_format == "auto" else data_format  # type: ignore[return-value]


def read_rows(path: Path, kind: str) -> Rows:
    """Each row with its place (`file:line`); raises DataError that names the line that cannot be read."""
    readers = {"jsonl": read_jsonl, "json": read_json, "csv": read_csv, "parquet": read_parquet}
    try:
        with path.open("rb") as file:
            start = file.read(4)
        for begin, problem in FOREIGN.items():
            if start.startswith(begin) and not (kind == "parquet" and begin == b"PAR1"):
                raise DataError(f"{path}: {problem}")
        yield from readers[kind](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{find_undecodable(path)}; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def find_undecodable(path: Path) -> str:
    """The line and the byte at which a file is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"{number}: is not UTF-8 (byte {error.start + 1} of the line is {line[error.start]:#04x})"
    raise AssertionError("the file changed while it was read")


def make_unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ValueError if a key occurs twice, because Python would keep only the last one."""
    json_object = dict(pairs)
    if len(json_object) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return json_object


JSON = json.JSONDecoder(object_pairs_hook=make_unique_object)


def explain_json_error(error: Exception) -> str:
    """The reason why a text is not JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON ({error.msg} at column {error.colno})"
    return f"cannot be read as JSON ({'too deeply nested' if isinstance(error, RecursionError) else str(error).partition(';')[0]})"


def read_jsonl(path: Path) -> Rows:
    """One JSON object a line."""
    with path.open(encoding="utf-8-sig") as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > LONGEST:
                raise DataError(f"{where}: the line is longer than {LONGEST:,} characters; one row must stand in each line")
            if not line.strip():
                raise DataError(f"{where}: the line is empty; remove it")
            try:
                row = JSON.decode(line.rstrip("\n"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: {explain_json_error(error)}{describe_row(line, number)}") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}: holds {type(row).__name__}, not an object with columns{describe_row(line, number)}")
            yield where, row


def describe_row(line: str, number: int) -> str:
    """A hint about a line that holds no row."""
    if "\0" in line:
        return "; it holds NUL bytes, as UTF-16 does: save it as UTF-8"
    if number == 1 and line.lstrip().startswith("["):
        return "; it looks like one list of rows: name the file .json"
    return "; one whole row must stand in each line" if line.strip() == "{" else ""


def read_json(path: Path) -> Rows:
    """One JSON list of objects."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        rows = JSON.decode(text)
    except json.JSONDecodeError as error:
        advice = "; it looks like one object a line: name the file .jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{path}:{error.lineno}: {explain_json_error(error)}{advice}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {explain_json_error(error)}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: holds {type(rows).__name__}; expected a list of objects")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number} is {type(row).__name__}, not an object with columns")
        yield f"{path}: row {number}", row


def read_csv(path: Path) -> Rows:
    """Comma-separated values with a header line."""
    csv.field_size_limit(LONGEST)  # the default limit of the module, 128 KiB, is too small for a long document
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        first_line = 1
        try:
            names = next(reader, None)
            if names is not None:
                check_header(names, f"{path}:1")
            first_line = reader.line_num + 1
            for fields in reader:
                where = f"{path}:{reader.line_num}"
                if not fields:
                    raise DataError(f"{where}: the line is empty; remove it")
                assert names is not None
                if len(fields) != len(names):
                    raise DataError(f"{where}: the row has {len(fields)} fields, the header {len(names)}; quote texts that hold commas")
                yield where, dict(zip(names, fields, strict=True))
                first_line = reader.line_num + 1
        except csv.Error as error:
            is_unclosed = reader.line_num > first_line or "unexpected end" in str(error)
            advice = "; a quote that opens in this row may never be closed" if is_unclosed else ""
            raise DataError(f"{path}:{first_line}: is not CSV ({error}){advice}") from error


def check_header(names: list[str], where: str) -> None:
    """Raise DataError for a header that names no columns."""
    if not any(name.strip() for name in names):
        raise DataError(f"{where}: the header is empty; write the names of the columns into the first line")
    if repeated_names := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where}: the header has {', '.join(map(repr, repeated_names))} more than once; rename the columns")
    if len(names) == 1 and (separator := next((separator for separator in "\t;|" if separator in names[0]), None)):
        raise DataError(f"{where}: the header is one field, {names[0]!r}; separate the columns with commas, not {separator!r}")


def read_parquet(path: Path) -> Rows:
    """Apache Parquet, read in batches."""
    import pyarrow as arrow
    from pyarrow import parquet

    number = 0
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if repeated_names := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{path}: has the columns {', '.join(map(repr, repeated_names))} more than once; rename them")
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row
    except (arrow.ArrowException, OSError) as error:
        position_note = f" after row {number}" if number else ""
        raise DataError(f"{path}: is not Parquet, or damaged{position_note} ({' '.join(str(error).split())})") from error
