"""`compare=[runA,runB,…]`: compare the last measurements of finished runs on the same rows: better, worse, or noise?

Runs that differ only in the seed form one point. Its mean over the seeds is compared, and the interval covers seeds and rows.
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
"""A difference up to this share of the metric's size (of 1 for a metric below 1) is a rounding error. For example, an adapter that is
merged into its base rounds differently."""
NOT_OF_THE_POINT = (*UNTRAINED, "seed", "hardware")
"""Settings that may differ between the runs of one point."""
ONE_SEED = "One seed each: the intervals cover the rows only. This says nothing about the method; more seeds do (sweep.seeds=3)."
DEEPEST = 5
"""A run may start from another run. At most this many runs are followed back to decide whether two runs belong to one point."""


@dataclass(frozen=True, kw_only=True)
class MeasuredPoint:
    """Runs that differ only in the seed, with their metrics row by row."""

    runs: tuple[str, ...]
    tables: tuple[dict[str, RowValues], ...]
    """For each run, the metrics by name."""

    @property
    def name(self) -> str:
        """The name of the point in titles: its first run and the number of further runs."""
        return self.runs[0] + (f" and {len(self.runs) - 1} more seeds" if len(self.runs) > 1 else "")

    @property
    def short_name(self) -> str:
        """The name of the point in the header of a column."""
        return Path(self.runs[0]).name + (f" (n = {len(self.runs)})" if len(self.runs) > 1 else "")

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics that all of its runs have."""
        return [name for name in self.tables[0] if all(name in table for table in self.tables)]

    def list_runs(self, metric: str) -> list[RowValues]:
        """Return the rows of one metric, run by run."""
        return [table[metric] for table in self.tables]


def find_problems(runs: Sequence[str]) -> list[str]:
    """Return the problems of the runs to compare; empty if they can be compared."""
    if len(runs) == 1:
        return [f"compare=[{runs[0]}]: name two runs or more, the first is what the others are held against"]
    problems = [
        f"compare: {run} holds no {FILE}; name the folder of a finished sft, align or evaluate run that was evaluated"
        for run in runs
        if not (Path(run).expanduser() / FILE).is_file()
    ]
    if problems:
        return problems
    first_measurements, *other_measurements = (read_measurements(run) for run in runs)
    return [
        f"compare: {run} was measured on other rows than {runs[0]}; run both with the same data and evaluate.limit"
        for run, measurements in zip(runs[1:], other_measurements, strict=True)
        if measurements["rows"] != first_measurements["rows"]
    ]


def read_measurements(run: str) -> dict[str, Any]:
    """Read the measurements of a run: the digest of its `rows`, and `after`, the metrics row by row. Raises ConfigError if the file is
    damaged."""
    path = Path(run).expanduser() / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"rows": content["rows"], "after": {name: RowValues(**values) for name, values in content["after"].items()}}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"compare: {path} cannot be read ({type(error).__name__}: {error}); measure the run again, or leave it out"
        ) from error


def describe_point(run: Path, depth: int = 0) -> str:
    """Return all settings that decide a run except its seed, as text; the path of the run if its settings cannot be read."""
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
        # The model may itself come from a run. Each seed of one point may start from a run of its own.
        is_run = depth < DEEPEST and (start_folder / CONFIG).is_file()
        model["path"] = describe_point(start_folder, depth + 1) if is_run else path
    return json.dumps({**deciding_settings, "model": model}, sort_keys=True, default=str)


def pool_points(runs: Sequence[str]) -> list[MeasuredPoint]:
    """Group the runs into points, in the order of their first runs. If all runs belong to one point, each run is a point of its own."""
    groups: dict[str, list[str]] = {}
    for run in dict.fromkeys(runs):
        groups.setdefault(describe_point(Path(run).expanduser()), []).append(run)
    run_groups = list(groups.values()) if len(groups) > 1 else [[run] for run in runs]
    return [MeasuredPoint(runs=tuple(names), tables=tuple(read_measurements(run)["after"] for run in names)) for names in run_groups]


def show_comparison(runs: Sequence[str]) -> None:
    """Print the tables. Raises ConfigError if the runs cannot be compared."""
    if problems := find_problems(runs):
        raise ConfigError(problems)
    first_point, *other_points = pool_points(runs)
    console = Console(file=sys.stdout, highlight=False)
    for point in other_points:
        show_pair(console, first_point, point)
    if len(set(runs)) > 1 and len({describe_point(Path(run).expanduser()) for run in runs}) == 1:
        console.print("These runs differ in nothing but the seed: what differs between them is chance.")


def show_pair(console: Console, first: MeasuredPoint, other: MeasuredPoint) -> None:
    """Print the comparison of one point with the first."""
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
    """Return whether all runs of both points have the metric on the same number of rows."""
    return len({len(run.values) for point in (first, other) for run in point.list_runs(metric)}) == 1


def describe_seeds(first: MeasuredPoint, other: MeasuredPoint) -> str:
    """Describe in words what the intervals cover."""
    counts = len(first.runs), len(other.runs)
    if counts == (1, 1):
        return ONE_SEED
    text = f"Means over seeds ({counts[0]} against {counts[1]}); the intervals cover seeds and rows."
    return text + (" The single seed is taken to spread as the others do." if 1 in counts else "")


def judge_difference(name: str, low: float, high: float, *, size: float = 1.0) -> str:
    """Return the verdict on the interval of a difference: better, worse or noise; higher or lower for a metric that cannot be a score."""
    dust = DUST * max(1.0, size)
    if low <= dust and high >= -dust:
        return "noise"
    if name not in DIRECTIONS:
        return "higher" if low > 0 else "lower"
    return "better" if (low > 0) == (DIRECTIONS[name] == "maximize") else "worse"
