"""Around a measurement, in training runs and in stage=evaluate: what is kept of it, what is said of it."""

from pathlib import Path
from typing import Any

from lexalign.artifacts.result import Result
from lexalign.evaluation import compare, summary
from lexalign.evaluation.evaluator import Evaluator, Measurement
from lexalign.evaluation.measure import write_measurements
from lexalign.evaluation.samples import list_samples


def record_measurements(
    result: Result, evaluator: Evaluator, before: Measurement, after: Measurement, out_dir: Path | None, names: tuple[str, str]
) -> None:
    """Put both measurements into the result, and row by row into the run's folder, where there is one to write to; `before` may be of
    nothing."""
    result.metrics = {"before": before.values, "after": after.values}
    result.intervals, result.n = after.intervals, after.n
    result.counts |= after.counts
    measurements = dict(zip(names, (before, after), strict=True)) if before.rows else {names[1]: after}
    result.samples = list_samples(evaluator, measurements)
    if out_dir is not None:
        write_measurements(out_dir / compare.FILE, evaluator.rows, before, after)


def report_measurements(result: Result, tracker: Any, names: tuple[str, str]) -> None:
    """The result on the terminal and in the tracker."""
    summary.show_summary(result, names)
    tracker.summary({f"{when}/{name}": value for when, table in result.metrics.items() for name, value in table.items()})
    if result.score is not None:
        tracker.summary({"score": result.score})
    if result.samples:
        tracker.table("samples", result.samples)
    if result.artifact is not None:
        tracker.artifact(Path(result.artifact))
