"""Jobs that differ in nothing but the seed, as one point: the mean of their scores and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from lexalign.evaluation.intervals import student_interval
from lexalign.sweeps.report.gather import SEED, Report, ReportRow, Score


@dataclass(frozen=True, kw_only=True)
class Point:
    """A combination of settings, over its seeds."""

    sweep: str
    settings: dict[str, str]
    """Without the seed."""
    rows: list[ReportRow]
    mean: float
    low: float | None
    """Of the 95 % interval of the mean over seeds (Student's t); None for a single seed, which tells nothing of the spread."""
    high: float | None

    @property
    def n(self) -> int:
        """Seeds."""
        return len(self.rows)


def pool_seeds(report: Report) -> list[Point]:
    """The points that are scored, best first. Only jobs of one sweep are pooled: another may differ in what neither varies."""
    keys = [key for key in report.swept if key != SEED]
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[ReportRow]] = {}
    for row in report.ranked:
        settings = tuple((key, row.settings[key]) for key in keys if key in row.settings)
        # Runs named one by one stand in no sweep; what differs between them is all there.
        groups.setdefault((row.sweep, settings), []).append(row)
    points = []
    for (sweep, settings), rows in groups.items():
        values = [row.score for row in rows if row.score is not None]
        low, high = student_interval(values) if len(values) > 1 else (None, None)
        points.append(Point(sweep=sweep, settings=dict(settings), rows=rows, mean=sum(values) / len(values), low=low, high=high))
    return sorted(points, key=lambda point: point.mean if report.score is None or report.score.lower_is_better else -point.mean)


def to_numbers(texts: Sequence[str]) -> list[float] | None:
    """The values of a setting as numbers, where all of them are; else they are names."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return None
    return numbers if all(abs(value) < float("inf") for value in numbers) else None


def is_log(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows the values better: all above 0 and far apart."""
    return min(values) > 0 and max(values) / min(values) >= 20


def find_pareto_front(rows: Sequence[ReportRow], values: Sequence[Sequence[float]], objectives: Sequence[Score]) -> list[ReportRow]:
    """The Pareto front: rows of which no other is at least as good in every objective and better in one."""
    costs = [
        [number if score.lower_is_better else -number for number, score in zip(row_values, objectives, strict=True)]
        for row_values in values
    ]
    # In order of the first objective nothing that comes later beats what came before, unless it is equal there.
    order = sorted(range(len(rows)), key=lambda at: costs[at])
    front: list[int] = []
    for at in order:
        if not any(costs[other] != costs[at] and all(a <= b for a, b in zip(costs[other], costs[at], strict=True)) for other in front):
            front.append(at)
    return [rows[at] for at in front]
