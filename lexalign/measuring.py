"""Around a measurement, in training runs and in stage=evaluate: what is kept of it, what is said of it."""

from pathlib import Path
from typing import Any

from lexalign import report
from lexalign.evaluation import compare
from lexalign.evaluation.measure import write
from lexalign.evaluation.samples import beside
from lexalign.evaluation.yardstick import Measured, Yardstick
from lexalign.results import Result


def keep(result: Result, yardstick: Yardstick, before: Measured, after: Measured, out_dir: Path | None, names: tuple[str, str]) -> None:
    """Put both measurements into the result, and row by row into the run's folder, where there is one to write to; `before` may be of
    nothing."""
    result.metrics = {"before": before.values, "after": after.values}
    result.intervals, result.n = after.intervals, after.n
    result.counts |= after.counts
    shown = dict(zip(names, (before, after), strict=True)) if before.rows else {names[1]: after}
    result.samples = beside(yardstick, shown)
    if out_dir is not None:
        write(out_dir / compare.FILE, yardstick.rows, before, after)


def tell(result: Result, tracker: Any, names: tuple[str, str]) -> None:
    """The result on the terminal and in the tracker."""
    report.show(result, names)
    tracker.summary({f"{when}/{name}": value for when, table in result.metrics.items() for name, value in table.items()})
    if result.score is not None:
        tracker.summary({"score": result.score})
    if result.samples:
        tracker.table("samples", result.samples)
    if result.artifact is not None:
        tracker.artifact(Path(result.artifact))
