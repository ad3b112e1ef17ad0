"""Learning curves: what the best jobs logged while they trained."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lexalign.sweeps.report import folders
from lexalign.sweeps.report.gather import Report, ReportRow

MOST_JOBS = 50
MOST_DOTS = 200
MOST_MEASURES = 24
NOT_DRAWN = ("step", "epoch", "num_tokens", "total_flos")
FIRST_MEASURES = ("eval_loss", "loss")
"""Measures to begin with, where they were logged."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Some measures of some jobs over the steps."""

    rows: list[ReportRow]
    measures: list[str]
    """The one to show first comes first."""
    lines: list[dict[str, tuple[list[int], list[float]]]]
    """For each job, measure to its steps and values."""
    left_out: int
    """Jobs that may have logged too, and are not shown."""


def gather_curves(report: Report) -> Curves:
    """Read the curves of the best jobs, then of those that run or were stopped."""
    candidates = [row for row in report.rows if row.is_point and row.job.state not in ("waiting", "planned")]
    rows: list[ReportRow] = []
    lines = []
    left_out = 0
    for at, row in enumerate(candidates):
        if len(rows) == MOST_JOBS:
            left_out = len(candidates) - at
            break
        if log_lines := folders.read_log(row.folder):
            rows.append(row)
            lines.append({report.clean(name): dots for name, dots in list_series(log_lines).items()})
    counts = Counter(name for series in lines for name in series)
    names = [
        *(name for name in FIRST_MEASURES if name in counts),
        *(name for name, _ in counts.most_common() if name not in FIRST_MEASURES),
    ]
    return Curves(rows=rows, measures=names[:MOST_MEASURES], lines=lines, left_out=left_out)


def list_series(log_lines: Sequence[dict[str, object]]) -> dict[str, tuple[list[int], list[float]]]:
    """Return steps and values of each measure. Where there are many they are thinned out evenly, and the last one stays."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in log_lines:
        step = line["step"]
        assert isinstance(step, int)
        for name, value in line.items():
            if name not in NOT_DRAWN and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                series.setdefault(name, []).append((step, value))
    return {name: thin_out(dots) for name, dots in series.items()}


def thin_out(dots: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """At most `MOST_DOTS` of the dots, as two lists."""
    stride = math.ceil(len(dots) / MOST_DOTS)
    dots_left = list(reversed(dots[::-1][::stride]))
    return [step for step, _ in dots_left], [float(f"{value:.5g}") for _, value in dots_left]
