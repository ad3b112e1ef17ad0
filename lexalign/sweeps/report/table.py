"""The report's table on the terminal."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lexalign.sweeps.report import wording
from lexalign.sweeps.report.folders import CONTROL
from lexalign.sweeps.report.gather import Report, ReportRow
from lexalign.sweeps.report.points import pool_seeds
from lexalign.sweeps.report.ties import describe_settings, find_ties

MOST_ROWS = 100
MOST_WIDTH = 36
"""Characters that a column need not have more of; longer texts are cut where others take the room."""
COLOURS = {"finished": "green", "failed": "red", "interrupted": "red", "paused": "yellow", "pruned": "yellow", "running": "cyan"}


def show_table(report: Report) -> None:
    """Print the jobs, best first, as wide as the terminal; of many only the first."""
    console = Console(file=sys.stdout, highlight=False)
    counts = ", ".join(f"{count} {state}" for state, count in wording.format_state_counts(report).items()) or "no jobs"
    console.print(Text(make_one_line(f"{report.title}: {counts}")))
    for note in report.notes:
        console.print(Text(make_one_line(note), style="yellow"))
    if not report.rows:
        return
    rows = report.rows[:MOST_ROWS]
    columns = fit_columns(list_columns(report, rows), console.width)
    table = Table(title=make_headline(report), title_justify="left")
    for column in columns:
        table.add_column(Text(column.title), justify="right" if column.number else "left", no_wrap=True, overflow="ellipsis")
    for line in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*line)
    console.print(table)
    if len(report.rows) > MOST_ROWS:
        console.print(f"… and {len(report.rows) - MOST_ROWS:,} more: all are in the report, and in report_csv=<file>.csv")
    if (ties := find_ties(report, pool_seeds(report))) is not None:
        console.print(Text(make_one_line(f"Best point: {describe_settings(ties.best)} (n = {ties.best.n}). {ties.describe()}")))
    if report.score is not None:
        for text in wording.describe_best_run(report):
            console.print(Text(make_one_line(f"Best run: {text}")))
        if (doubtful := wording.describe_doubtful_jobs(report)) is not None:
            console.print(Text(make_one_line(doubtful), style="yellow"))
    if hidden := [column.name for column in list_columns(report, rows) if column.name not in {column.name for column in columns}]:
        console.print(Text(f"no room here for {', '.join(map(make_one_line, hidden))}: in the report, or in a wider terminal"))


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table."""

    name: str
    title: str
    cells: list[Text]
    number: bool = False
    order: int = 0
    """Where room is short, columns of the highest order go first."""

    @property
    def width(self) -> int:
        """With its frame."""
        return 3 + max(cell_len(self.title), *(cell.cell_len for cell in self.cells))


def list_columns(report: Report, rows: Sequence[ReportRow]) -> list[Column]:
    """Return all columns. Cells are plain texts: neither rich's markup nor control characters have an effect."""

    def column(name: str, texts: Iterable[str], **more: Any) -> Column:
        return Column(**{"name": name, "title": make_one_line(name), "cells": [Text(make_one_line(text)) for text in texts], **more})

    last = Counter(key.rpartition(".")[2] for key in report.swept)
    columns = [column("job", (row.name for row in rows))]
    if report.several:
        columns.append(column("sweep", (row.sweep for row in rows), order=2))
    states = [Text(row.job.state, style=COLOURS.get(row.job.state, "")) for row in rows]
    columns.append(Column(name="state", title="state", cells=states))
    for at, key in enumerate(report.swept):
        short = key.rpartition(".")[2]
        title = make_one_line(short if last[short] == 1 else key)
        columns.append(column(key, (row.settings.get(key, "") for row in rows), title=title, order=3 + at))
    score = report.score.name if report.score else "score"
    columns.append(column(score, (wording.format_number(row.score) for row in rows), number=True))
    columns.append(column("seconds", (f"{row.job.seconds:,.1f}" if row.job.seconds else "" for row in rows), number=True, order=1))
    if any(row.job.reason for row in rows):
        columns.append(column("reason", (row.job.reason or "" for row in rows), order=1000))
    return columns


def fit_columns(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that the terminal has room for. The last one may be cut."""
    columns_left = list(columns)
    while sum(min(column.width, MOST_WIDTH) for column in columns_left) + 1 > width and any(column.order for column in columns_left):
        columns_left.remove(max(columns_left, key=lambda column: column.order))
    return columns_left


def make_headline(report: Report) -> Text | None:
    """Return the table's title: the order of the rows."""
    if report.score is None:
        return None
    return Text(make_one_line(f"best first by {report.score.name} ({'lower' if report.score.lower_is_better else 'higher'} is better)"))


def make_one_line(text: str) -> str:
    """A text on one line, without what would move the cursor."""
    return CONTROL.sub("", " ".join(text.splitlines()))
