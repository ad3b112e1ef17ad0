"""Find the points that cannot be distinguished from the best one. The best of many points may be best by chance."""

from collections.abc import Sequence
from dataclasses import dataclass

from lexalign.errors import ConfigError
from lexalign.evaluation import compare
from lexalign.evaluation.differences import measure_difference
from lexalign.evaluation.intervals import RowValues
from lexalign.sweeps.report.gather import Report, ReportRow, Score
from lexalign.sweeps.report.points import Point

MOST_COMPARED = 50
"""Points that are compared with the best one: those next to it."""
MOST_NAMED = 5
ERROR_RATE = 0.05
"""Of all comparisons together: each gets its share (Bonferroni)."""
TOLERANCE = 1e-6
"""Of a score's size: how far the mean of its rows may be from it."""


@dataclass(frozen=True, kw_only=True)
class Ties:
    """The best point against those next to it."""

    best: Point
    equal: list[Point]
    """Points that are not distinguishable from it."""
    compared: int
    covers_seeds: bool
    """Whether all comparisons cover the seeds; else some cover the held-out rows only."""

    def describe(self) -> str:
        """The outcome in words."""
        basis = "over seeds and rows" if self.covers_seeds else "over the held-out rows only"
        if not self.equal:
            text = f"Distinguishable from each of {self.compared} other points (95 % together, {basis})."
        else:
            names = "; ".join(describe_settings(point) for point in self.equal[:MOST_NAMED])
            more = f"; and {len(self.equal) - MOST_NAMED} more" if len(self.equal) > MOST_NAMED else ""
            text = f"Not distinguishable from {len(self.equal)} of {self.compared} other points (95 % together, {basis}): {names}{more}."
        return text + ("" if self.covers_seeds else f" {compare.ONE_SEED}")


def describe_settings(point: Point) -> str:
    """A point by what it has of the settings that vary."""
    return " ".join(f"{key}={text}" for key, text in point.settings.items()) or "the same settings"


def find_ties(report: Report, points: Sequence[Point]) -> Ties | None:
    """Compare the best point with the others. None where there is nothing to compare, or while jobs still run."""
    if report.score is None or report.live or len(points) < 2:
        return None
    best, *others = points[: MOST_COMPARED + 1]
    level = 1 - ERROR_RATE / len(others)
    equal, compared, covers_seeds = [], 0, True
    for point in others:
        own, theirs = read_score_rows(best, point, report.score)
        if len(own) == len(theirs) == 1 and own[0].count is not None:
            continue  # two numbers, and nothing that tells how sure they are
        difference = measure_difference(own, theirs, level=level)
        compared += 1
        covers_seeds = covers_seeds and difference.covers_seeds
        if difference.low <= 0 <= difference.high:
            equal.append(point)
    return Ties(best=best, equal=equal, compared=compared, covers_seeds=covers_seeds) if compared else None


def read_score_rows(first: Point, second: Point, score: Score) -> tuple[list[RowValues], list[RowValues]]:
    """The score of each job of both points, row by row; as single numbers where the rows are not there or not the same."""
    sides = [[read_measured_rows(row, score) for row in point.rows] for point in (first, second)]
    digests = {digest for side in sides for digest, _ in side}
    if len(digests) == 1 and None not in digests:
        return [rows for _, rows in sides[0]], [rows for _, rows in sides[1]]
    alone = [[RowValues(values=[row.score or 0.0], count=1) for row in point.rows] for point in (first, second)]
    return alone[0], alone[1]


def read_measured_rows(job: ReportRow, score: Score) -> tuple[str | None, RowValues]:
    """The digest of the rows that a job was measured on, and its score on each; None where they are not there."""
    assert job.score is not None
    nothing = None, RowValues(values=[job.score], count=1)
    try:
        measured = compare.read_measurements(str(job.folder))
    except ConfigError:
        return nothing
    rows = measured["after"].get(score.name)
    is_whole = rows is not None and rows.count is None and abs(rows.mean() - job.score) < TOLERANCE * max(1.0, abs(job.score))
    return (measured["rows"], rows) if is_whole else nothing
