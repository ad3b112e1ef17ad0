"""`compare=[runA,runB,…]`: the last measurements of finished runs beside each other, on the same rows: better, worse, or noise?

Runs that differ in nothing but the seed are one point: the mean over its seeds is compared, and the interval covers seeds and rows.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from lexalign.artifacts.fingerprint import UNTRAINED
from lexalign.errors import ConfigError
from lexalign.evaluation.differences import measure_difference
from lexalign.evaluation.intervals import RowValues
from lexalign.evaluation.metrics import DIRECTIONS, mean

FILE = "measurements.json"
CONFIG = "config.yaml"
DUST = 1e-5
"""A difference this small, of the metric's size or of 1, is one of arithmetic: an adapter merged into its base rounds otherwise."""
NOT_OF_THE_POINT = (*UNTRAINED, "seed", "hardware")
"""Settings in which the runs of one point may differ."""
ONE_SEED = "One seed each: the intervals cover the rows only. This says nothing about the method; more seeds do (sweep.seeds=3)."
DEEPEST = 5
"""Runs that start from runs: so many are followed to tell whether two points are the same."""


@dataclass(frozen=True, kw_only=True)
class MeasuredPoint:
    """Runs that differ in the seed only, with their metrics row by row."""

    runs: tuple[str, ...]
    tables: tuple[dict[str, RowValues], ...]
    """Of each run: metric to its rows."""

    @property
    def name(self) -> str:
        """How the point is called in titles: its first run, and how many more."""
        return self.runs[0] + (f" and {len(self.runs) - 1} more seeds" if len(self.runs) > 1 else "")

    @property
    def short_name(self) -> str:
        """How the point is called at the head of a column."""
        return Path(self.runs[0]).name + (f" (n = {len(self.runs)})" if len(self.runs) > 1 else "")

    @property
    def metrics(self) -> list[str]:
        """The metrics that all of its runs have."""
        return [name for name in self.tables[0] if all(name in table for table in self.tables)]

    def list_runs(self, metric: str) -> list[RowValues]:
        """The rows of one metric, run by run."""
        return [table[metric] for table in self.tables]


def find_problems(runs: Sequence[str]) -> list[str]:
    """What is wrong with the runs to compare; empty where they can be."""
    if len(runs) == 1:
        return [f"compare=[{runs[0]}]: name two runs or more, the first is what the others are held against"]
    problems = [
        f"compare: {run} holds no {FILE}; name the folder of a finished sft, align or evaluate run that was evaluated"
        for run in runs
        if not (Path(run).expanduser() / FILE).is_file()
    ]
    if problems:
        return problems
    first, *others = (read_measurements(run) for run in runs)
    return [
        f"compare: {run} was measured on other rows than {runs[0]}; run both with the same data and evaluate.limit"
        for run, other in zip(runs[1:], others, strict=True)
        if other["rows"] != first["rows"]
    ]


def read_measurements(run: str) -> dict[str, Any]:
    """The measurements a run left: the digest of its `rows`, and `after` as metrics row by row. Raises ConfigError for a damaged file."""
    path = Path(run).expanduser() / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"rows": content["rows"], "after": {name: RowValues(**values) for name, values in content["after"].items()}}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"compare: {path} cannot be read ({type(error).__name__}: {error}); measure the run again, or leave it out"
        ) from error


def describe_point(run: Path, depth: int = 0) -> str:
    """Return all settings that decide a run except its seed, as a text; the run's path where its settings cannot be read."""
    try:
        tree = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
        deciding_settings = {key: value for key, value in tree.items() if key not in NOT_OF_THE_POINT}
        model = dict(deciding_settings["model"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError):
        return str(run.absolute())
    path = model.pop("path", None)
    if model.get("parent") is None and isinstance(path, str):
        start_folder = Path(path).expanduser()
        start_folder = start_folder.parent if start_folder.name == "artifact" else start_folder
        # A model that is itself a run: seeds of one point may each start from their own.
        is_run = depth < DEEPEST and (start_folder / CONFIG).is_file()
        model["path"] = describe_point(start_folder, depth + 1) if is_run else path
    return json.dumps({**deciding_settings, "model": model}, sort_keys=True, default=str)


def pool_points(runs: Sequence[str]) -> list[MeasuredPoint]:
    """The runs as points, in the order of their first runs. Where all are one point, each run stands alone."""
    groups: dict[str, list[str]] = {}
    for run in dict.fromkeys(runs):
        groups.setdefault(describe_point(Path(run).expanduser()), []).append(run)
    run_groups = list(groups.values()) if len(groups) > 1 else [[run] for run in runs]
    return [MeasuredPoint(runs=tuple(names), tables=tuple(read_measurements(run)["after"] for run in names)) for names in run_groups]


def show_comparison(runs: Sequence[str]) -> None:
    """Print the tables; raises ConfigError where the runs cannot be compared."""
    if problems := find_problems(runs):
        raise ConfigError(problems)
    first, *others = pool_points(runs)
    console = Console(file=sys.stdout, highlight=False)
    for other in others:
        show_pair(console, first, other)
    if len(set(runs)) > 1 and len({describe_point(Path(run).expanduser()) for run in runs}) == 1:
        console.print("These runs differ in nothing but the seed: what differs between them is chance.")


def show_pair(console: Console, first: MeasuredPoint, other: MeasuredPoint) -> None:
    """Print one point against the first."""
    table = Table(title=f"{other.name} against {first.name}", title_justify="left")
    for column in ("metric", "n", first.short_name, other.short_name, "difference [95 % interval]", "verdict"):
        table.add_column(column, justify="left" if column in ("metric", "verdict") else "right")
    common_names = [name for name in first.metrics if name in other.metrics and have_equal_rows(first, other, name)]
    for name in common_names:
        difference = measure_difference(first.list_runs(name), other.list_runs(name))
        means = [mean([run.mean() for run in point.list_runs(name)]) for point in (first, other)]
        interval = f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
        verdict = judge_difference(name, difference.low, difference.high, size=max(map(abs, means)))
        table.add_row(name, str(first.list_runs(name)[0].n), *(f"{value:.4f}" for value in means), interval, verdict)
    console.print(table)
    console.print(describe_seeds(first, other), style="yellow" if len(first.runs) == len(other.runs) == 1 else "")
    if missing_names := sorted({name for point in (first, other) for table in point.tables for name in table} - set(common_names)):
        console.print(f"measured in some of the runs only, or on another number of rows: {', '.join(missing_names)}")


def have_equal_rows(first: MeasuredPoint, other: MeasuredPoint, metric: str) -> bool:
    """Whether all runs of both points have the metric on equally many rows."""
    return len({len(run.values) for point in (first, other) for run in point.list_runs(metric)}) == 1


def describe_seeds(first: MeasuredPoint, other: MeasuredPoint) -> str:
    """What the intervals cover, in words."""
    counts = len(first.runs), len(other.runs)
    if counts == (1, 1):
        return ONE_SEED
    text = f"Means over seeds ({counts[0]} against {counts[1]}); the intervals cover seeds and rows."
    return text + (" The single seed is taken to spread as the others do." if 1 in counts else "")


def judge_difference(name: str, low: float, high: float, *, size: float = 1.0) -> str:
    """Return the verdict on a difference's interval. Which direction is better is known for metrics that can be a score."""
    dust = DUST * max(1.0, size)
    if low <= dust and high >= -dust:
        return "noise"
    if name not in DIRECTIONS:
        return "higher" if low > 0 else "lower"
    return "better" if (low > 0) == (DIRECTIONS[name] == "maximize") else "worse"
