"""`sweep.points=<file>`: points listed in a file, as CSV (a column for each setting) or as JSON lines (an object for each point)."""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from lexalign.config.rules import trust
from lexalign.errors import ConfigError

PLAIN = re.compile(r"[A-Za-z_/][\w./:+-]*", re.ASCII)
"""A text that Hydra's grammar takes for itself, without quotes."""
WORDS_OF_HYDRA = ("null", "true", "false", "nan", "inf")
OF_THE_SWEEP = ("sweep", "hydra", "output_dir")
"""Settings, and groups of them, that belong to the sweep and not to its points."""
MOST_PROBLEMS = 10


def read_points(path: Path) -> list[tuple[str, ...]]:
    """The overrides of each point. Raises ConfigError with the lines at fault."""
    readers = {".csv": read_csv, ".jsonl": read_json_lines}
    if path.suffix.lower() not in readers:
        raise ConfigError(f"sweep.points={path}: is read as CSV or JSON lines; name a file that ends in .csv or .jsonl")
    problems: list[str] = []
    points: list[tuple[str, ...]] = []
    try:
        for line, settings in readers[path.suffix.lower()](path, problems):
            overrides = tuple(format_cell(key, value) for key, value in settings.items())
            wrong = [f"{path}:{line}: {problem}" for override in overrides if (problem := find_problem(override))]
            problems += wrong or trust.find_untrusted_overrides(overrides, f"{path}:{line}")
            points.append(overrides)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"sweep.points={path}: cannot be read ({error}); name a file of points") from error
    if not points and not problems:
        problems.append(f"sweep.points={path}: holds no points; write one on each line")
    if problems:
        more = [f"{path}: and {len(problems) - MOST_PROBLEMS} more problems"] if len(problems) > MOST_PROBLEMS else []
        raise ConfigError([*problems[:MOST_PROBLEMS], *more])
    return points


def read_csv(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line with its number; an empty cell sets nothing. A cell is written as a value is typed."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        header = [name.strip() for name in next(rows, [])]
        wrong = sorted({name for name in header if not name or header.count(name) > 1})
        if wrong or not header:
            problems.append(f"{path}:1: the first line names a setting for each column, each once; {wrong or 'it is empty'}")
            return
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) > len(header):
                problems.append(f"{path}:{rows.line_num}: has {len(row)} cells, and the first line names {len(header)} settings")
                continue
            yield rows.line_num, {name: Typed(cell.strip()) for name, cell in zip(header, row, strict=False) if cell.strip()}


def read_json_lines(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line with its number; groups of settings may be objects of their own."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            point = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}:{number}: is no JSON ({type(error).__name__}); write an object on each line")
            continue
        if not isinstance(point, dict):
            problems.append(f"{path}:{number}: is no object; write one as in {{'method': 'dpo', 'method.beta': 0.1}}")
            continue
        yield number, flatten(point)


class Typed(str):
    """A value as it is typed after the equals sign."""


def flatten(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted keys and values of nested objects."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{above}.{key}" if above else str(key)
        flat |= flatten(value, name) if isinstance(value, dict) and value else {name: value}
    return flat


def format_cell(key: str, value: Any) -> str:
    """A setting as it is typed."""
    return f"{key}={value}" if isinstance(value, Typed) else format_override(key, value)


def format_override(key: str, value: Any) -> str:
    """`key=value` as Hydra's grammar reads it back."""
    return f"{key}={format_value(value)}"


def format_value(value: Any) -> str:
    """A value of JSON as Hydra's grammar has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value) if not isinstance(value, float) or math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(format_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{format_value(item)}' for key, item in value.items())}}}"
    return quote_text(str(value))


def quote_text(text: str) -> str:
    """A text, in quotes where the grammar would read it as something else."""
    if PLAIN.fullmatch(text) and text.lower() not in WORDS_OF_HYDRA:
        return text
    escaped = re.sub(r'(\\*)(?="|$)', r"\1\1", text).replace('"', '\\"')  # a backslash counts only before a quote
    return f'"{escaped}"'


def find_problem(override: str) -> str | None:
    """What is wrong with an override that stands in a file; None where it may."""
    key, _, value = override.partition("=")
    if any(f"{key}.".replace("/", ".").startswith(f"{name}.") for name in OF_THE_SWEEP):
        return f"{key}: belongs to the sweep; type it, and leave it out of the file"
    if "_target_" in override:
        return f"{key}: names code, which may not stand in a file; type it"
    if "${" in value:
        return f"{key}: may not look up other values; write the value itself"
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except (HydraException, ValueError):
        return f"{override}: cannot be read as key=value; put a text in quotes, as in {key}='\"{value}\"'"
    if parsed.is_add() or parsed.is_force_add() or parsed.is_delete() or parsed.package:
        return f"{key}: is not the name of a setting"
    return f"{override}: holds several values; write each on a line of its own" if parsed.is_sweep_override() else None
