"""`compare=[runA,runB,…]`: the last measurements of finished runs beside each other, on the same rows: better, worse, or noise?"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lexalign.errors import ConfigError
from lexalign.evaluation.intervals import RowValues, bootstrap_difference
from lexalign.evaluation.metrics import DIRECTIONS

FILE = "measurements.json"
DUST = 1e-5
"""A difference this small, of the metric's size or of 1, is one of arithmetic: an adapter merged into its base rounds otherwise."""


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
    """The measurements a run left."""
    return json.loads((Path(run).expanduser() / FILE).read_text(encoding="utf-8"))


def show_comparison(runs: Sequence[str]) -> None:
    """Print the table; raises ConfigError where the runs cannot be compared."""
    if wrong := find_problems(runs):
        raise ConfigError(wrong)
    tables = [{name: RowValues(**values) for name, values in read_measurements(run)["after"].items()} for run in runs]
    console = Console(file=sys.stdout, highlight=False)
    first, *others = tables
    for run, other in zip(runs[1:], others, strict=True):
        table = Table(title=f"{run} against {runs[0]}", title_justify="left")
        for column in ("metric", "n", Path(runs[0]).name, Path(run).name, "difference [95 % interval]", "verdict"):
            table.add_column(column, justify="left" if column in ("metric", "verdict") else "right")
        paired = [name for name in first if name in other and len(first[name].values) == len(other[name].values)]
        for name in paired:
            apart, low, high = bootstrap_difference(first[name], other[name])
            shown = f"{apart:+.4f} [{low:+.4f}, {high:+.4f}]"
            count = str(first[name].n)
            means = first[name].mean(), other[name].mean()
            said = judge_difference(name, low, high, size=max(map(abs, means)))
            table.add_row(name, count, *(f"{mean:.4f}" for mean in means), shown, said)
        console.print(table)
        if left_out := sorted({*first, *other} - set(paired)):
            console.print(f"measured in one of the two only, or on another number of rows: {', '.join(left_out)}")


def judge_difference(name: str, low: float, high: float, *, size: float = 1.0) -> str:
    """What an interval of a difference says; which way is better is known for the metrics that can be a score."""
    dust = DUST * max(1.0, size)
    if low <= dust and high >= -dust:
        return "noise"
    if name not in DIRECTIONS:
        return "higher" if low > 0 else "lower"
    return "better" if (low > 0) == (DIRECTIONS[name] == "maximize") else "worse"
