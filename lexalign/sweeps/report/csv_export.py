"""All jobs as a CSV file: every setting and every metric a column."""

import csv
import io
from datetime import UTC, datetime
from typing import Any

from lexalign.sweeps.report.gather import Report, ReportRow

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes a cell for a formula by."""


def make_csv(report: Report) -> str:
    """The table, best job first. A text that a spreadsheet would run as a formula has an apostrophe before it."""
    scores = list(dict.fromkeys(name for row in report.rows for name in row.job.metrics))
    fixed = [list_facts(row, report) for row in report.rows]
    # A setting called like a fact (method, stage) is the same thing, as typed.
    names = [name for name in (fixed[0] if fixed else ()) if name not in report.swept]
    before, after = [name for name in names if name not in AT_THE_END], [name for name in names if name in AT_THE_END]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([escape_cell(name) for name in (*before, *report.swept, *(f"after/{name}" for name in scores), *after)])
    for row, found in zip(report.rows, fixed, strict=True):
        settings = [row.settings.get(key, "") for key in report.swept]
        measured = [row.job.metrics.get(name, "") for name in scores]
        table.writerow([escape_cell(cell) for cell in (*(found[n] for n in before), *settings, *measured, *(found[n] for n in after))])
    return text.getvalue()


AT_THE_END = ("overrides", "key", "parent", "folder", "host", "gpu", "started", "reason")


def list_facts(row: ReportRow, report: Report) -> dict[str, Any]:
    """What is known of every job, whatever it varies."""
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
    """A cell that is text to a spreadsheet, too; numbers stay, as typed ones do."""
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
