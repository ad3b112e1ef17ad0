"""Jobs in words: numbers, times, states, failures, cost, and commands."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from lexalign.artifacts.result import Result, read_result
from lexalign.sweeps.ledger import STATES
from lexalign.sweeps.report import folders
from lexalign.sweeps.report.gather import Report, ReportRow

MOST_FAILURES = 30
MOST_CHECKED = 200
"""Jobs whose results are read for warnings."""
MOST_NAMED = 10
FAILED_STATES = ("failed", "interrupted")
PLAIN = re.compile(r"[\w./:+-]+", re.ASCII)
"""What Hydra's grammar takes without quotes."""


def format_number(value: float | None) -> str:
    """Five significant digits; empty for None."""
    return "" if value is None else f"{value:.5g}"


def format_duration(seconds: float) -> str:
    """Seconds as a person would say them: 3.2 s, 4 min 10 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"


def format_state_counts(report: Report) -> dict[str, int]:
    """How many points are in which state; states of none are left out."""
    points = [row for row in report.rows if row.is_point]
    return {state: count for state in STATES if (count := sum(row.job.state == state for row in points))}


def format_command(words: Sequence[str]) -> str:
    """A command line that a shell reads back as these words."""
    return shlex.join(words)


def format_job_command(report: Report, row: ReportRow) -> str:
    """Return the command for exactly this job. In its own folder it returns the result at once; in another folder it runs again."""
    folder = quote_for_hydra(report.clean(str(row.folder)))
    if not row.job.overrides:
        return format_command(["python", "run.py", f"reproduce={folder}"])
    return format_command(["python", "run.py", *row.job.overrides, f"output_dir={folder}"])


def quote_for_hydra(text: str) -> str:
    """A text as Hydra's grammar takes it, in quotes where it must be."""
    if PLAIN.fullmatch(text):
        return text
    escaped = re.sub(r'(\\*)(?="|$)', r"\1\1", text).replace('"', '\\"')  # a backslash counts only before a quote
    return f'"{escaped}"'


def describe_best_run(report: Report) -> list[str]:
    """Return what the best run's result adds to its score: the values of predictions without a model, and its warnings."""
    assert report.score is not None
    result = read_whole_result(report.ranked[0])
    if result is None:
        return []
    trivial = result.baselines.get(report.score.name, {})
    values = ", ".join(f"{name} {format_number(value)}" for name, value in trivial.items())
    return [report.clean(text) for text in (*([f"Without a model: {values}."] if values else []), *(f"{w}." for w in result.warnings))]


def describe_doubtful_jobs(report: Report) -> str | None:
    """Name the other ranked jobs whose results hold warnings: their text has degenerated, or takes no model. None where there are none."""
    rows = report.ranked[1:MOST_CHECKED]
    names = [row.name for row in rows if (result := read_whole_result(row)) is not None and result.warnings]
    if not names:
        return None
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    first_names = ", ".join(names[:MOST_NAMED]) + more
    return f"{len(names)} of the {len(rows)} next jobs have warnings too, which stand in their result.json: {first_names}."


def read_whole_result(row: ReportRow) -> Result | None:
    """A job's result; None where there is none, or where its file is damaged."""
    try:
        return read_result(row.folder)
    except (ValueError, TypeError, OSError, RecursionError):
        return None


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """Jobs that failed for the same reason."""

    reason: str
    rows: list[ReportRow]
    lines: dict[str, str]
    """The last lines that the first of them wrote, by file."""


def group_failures(report: Report) -> tuple[list[FailureGroup], int]:
    """What went wrong, most frequent reason first, and how many reasons are left out."""
    rows_by_reason: dict[str, list[ReportRow]] = {}
    for row in report.rows:
        if row.job.state in FAILED_STATES:
            rows_by_reason.setdefault(row.job.reason or f"{row.job.state}; no reason is recorded", []).append(row)
    reasons = sorted(rows_by_reason.items(), key=lambda pair: -len(pair[1]))
    groups = []
    for reason, rows in reasons[:MOST_FAILURES]:
        lines = {name: report.clean(text) for name, text in folders.read_last_lines(rows[0].folder).items()}
        groups.append(FailureGroup(reason=reason, rows=rows, lines=lines))
    return groups, len(reasons) - len(groups)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the jobs took."""

    seconds: dict[str, float]
    """By what became of them: a state, or parents."""
    steps: int
    jobs: int
    """That ran at all."""

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def lost(self) -> float:
        """Share of the time that went into jobs which left no result."""
        return sum(self.seconds.get(state, 0.0) for state in (*FAILED_STATES, "pruned")) / self.total if self.total else 0.0


def sum_cost(report: Report) -> Cost:
    """What all jobs took together."""
    seconds: dict[str, float] = {}
    for row in report.rows:
        kind = row.job.state if row.is_point or row.job.state in FAILED_STATES else "parents"
        if row.job.seconds:
            seconds[kind] = seconds.get(kind, 0.0) + row.job.seconds
    rows_that_ran = [row for row in report.rows if row.job.seconds]
    return Cost(seconds=seconds, steps=sum(row.job.steps or 0 for row in report.rows), jobs=len(rows_that_ran))
