"""Store and report a measurement, in training runs and in stage=evaluate."""

from pathlib import Path
from typing import Any

from lexalign.artifacts.result import Result
from lexalign.config.secrets import redact_tree
from lexalign.evaluation import baselines, compare, degeneration, metrics, summary
from lexalign.evaluation.evaluator import Evaluator, Measurement
from lexalign.evaluation.measure import write_measurements
from lexalign.evaluation.samples import list_samples


def record_measurements(
    result: Result, evaluator: Evaluator, before: Measurement, after: Measurement, out_dir: Path | None, names: tuple[str, str]
) -> None:
    """Store both measurements in the result, and row by row in `out_dir` if it is not None. `before` may be empty."""
    for measurement in (before, after):
        degeneration.record_repetition(evaluator, measurement)
    result.metrics = {"before": before.values, "after": after.values}
    result.intervals, result.n = after.intervals, after.n
    result.counts |= after.counts
    trivial_values = baselines.measure_baselines(evaluator)
    result.baselines = baselines.list_baseline_values(trivial_values)
    result.warnings = [*baselines.judge_scores(trivial_values, after, list(after.rows)), *degeneration.find_signs(evaluator, before, after)]
    measurements = dict(zip(names, (before, after), strict=True)) if before.rows else {names[1]: after}
    result.samples = redact_tree(list_samples(evaluator, measurements))
    if out_dir is not None:
        write_measurements(out_dir / compare.FILE, evaluator.rows, before, after)


def report_measurements(result: Result, tracker: Any, names: tuple[str, str]) -> None:
    """Report the result on the terminal and to the tracker."""
    summary.show_summary(result, names)
    tracker.summary({f"{when}/{name}": value for when, table in result.metrics.items() for name, value in table.items()})
    tracker.summary({f"trivial/{metric}": metrics.find_best(metric, table)[1] for metric, table in result.baselines.items()})
    if result.score is not None:
        tracker.summary({"score": result.score})
    if result.samples:
        tracker.table("samples", result.samples)
    if result.artifact is not None:
        tracker.artifact(Path(result.artifact))
