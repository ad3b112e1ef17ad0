"""All jobs as a CSV file: every setting and every metric a column."""

import csv
import io
from datetime import UTC, datetime
from typing import Any

from lexalign.sweeps.report.gather import Report, ReportRow

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes a cell for a formula by."""


def make_csv(report: Report) -> str:
    """The table, best job first. A text that a spreadsheet would run as a formula has an apostrophe before it."""
    metric_names = list(dict.fromkeys(name for row in report.rows for name in row.job.metrics))
    facts_of_rows = [list_facts(row, report) for row in report.rows]
    # A setting called like a fact (method, stage) is the same thing, as typed.
    names = [name for name in (facts_of_rows[0] if facts_of_rows else ()) if name not in report.swept]
    first_columns, last_columns = [name for name in names if name not in LAST_COLUMNS], [name for name in names if name in LAST_COLUMNS]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [escape_cell(name) for name in (*first_columns, *report.swept, *(f"after/{name}" for name in metric_names), *last_columns)]
    )
    for row, facts in zip(report.rows, facts_of_rows, strict=True):
        settings = [row.settings.get(key, "") for key in report.swept]
        metrics = [row.job.metrics.get(name, "") for name in metric_names]
        table.writerow(
            [escape_cell(cell) for cell in (*(facts[n] for n in first_columns), *settings, *metrics, *(facts[n] for n in last_columns))]
        )
    return text.getvalue()


LAST_COLUMNS = ("overrides", "key", "parent", "folder", "host", "gpu", "started", "reason")


def list_facts(row: ReportRow, report: Report) -> dict[str, Any]:
    """Return the columns that every job has."""
    job = row.job
    return {
        "sweep": row.sweep,
        "job": row.name,
        "state": job.state,
        "stage": job.stage,
        "method": job.method,
        "score_name": job.score_name,
        "score": job.score,
        "score_direction": job.score_direction,
        "steps": job.steps,
        "seconds": job.seconds,
        "attempts": job.attempts,
        "started": datetime.fromtimestamp(job.started, UTC).isoformat(timespec="seconds") if job.started else None,
        "host": job.host,
        "gpu": job.gpu,
        "folder": report.clean(str(row.folder)),
        "parent": job.parent,
        "key": job.key,
        "overrides": " ".join(job.overrides),
        "reason": job.reason,
    }


def escape_cell(cell: Any) -> Any:
    """Return a cell that a spreadsheet does not run as a formula. Numbers stay as they are."""
    if not isinstance(cell, str) or not cell.startswith(FORMULA_STARTS):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
