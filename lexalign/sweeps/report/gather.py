"""Gather the jobs of a report from sweeps' ledgers and runs' folders, best first."""

import math
import shlex
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lexalign.artifacts.files import is_sweep
from lexalign.config.overrides import get_key
from lexalign.config.secrets import make_redactor
from lexalign.errors import ConfigError
from lexalign.evaluation.metrics import DIRECTIONS
from lexalign.sweeps.ledger import STATES, Job, Ledger
from lexalign.sweeps.report import folders as run_folders

SEED = "seed"
SCORED_STATES = ("finished",)
"""States whose score counts; a pruned job's is that of an unfinished model."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What jobs are ranked by."""

    name: str
    lower_is_better: bool


def make_cleaner() -> Callable[[str], str]:
    """Return a function that removes secrets from texts, and characters that cannot be written."""
    redact, seen = make_redactor(), dict[str, str]()

    def clean(text: str) -> str:
        if text not in seen:
            seen[text] = redact(text).encode("utf-8", "replace").decode()
        return seen[text]

    return clean


@dataclass(kw_only=True)
class ReportRow:
    """One job, as the report shows it."""

    sweep: str
    """Label of the sweep, or of the runs' common folder."""
    name: str
    """Its number in the sweep, its folder's name, or whose parent it is."""
    job: Job
    home: Path
    """The sweep's folder, or the run's own."""
    settings: dict[str, str]
    """What it has of the settings that vary; a job that has no such setting lacks the key."""
    score: float | None = None
    """Of the kind all rows are ranked by; None where it has none, or is not finished."""

    @property
    def is_point(self) -> bool:
        """Whether it is a point of the sweep; else a parent of some."""
        return self.job.number is not None

    @property
    def folder(self) -> Path:
        """The run's folder. In a sweep that was moved it is still below the sweep's."""
        noted_folder, own_folder = self.home / self.job.folder, self.home / self.name
        return own_folder if self.sweep and self.is_point and not (self.job.folder and noted_folder.is_dir()) else noted_folder


@dataclass(kw_only=True)
class Report:
    """All that is shown."""

    title: str
    folder: Path | None
    """The sweep's, where there is one only."""
    command: str
    """The sweep's whole command line, as a shell reads it; empty for several sweeps."""
    rows: list[ReportRow]
    """Ranked ones best first, then the others by state and number."""
    swept: list[str]
    """The settings that vary."""
    score: Score | None
    """None as long as nothing has one."""
    objectives: list[Score]
    """Two or more, where the sweep has several."""
    live: bool
    """Whether jobs still run as it is written."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know of the numbers."""
    clean: Callable[[str], str] = field(default_factory=make_cleaner)
    """For texts that are read later: logs and paths."""

    @property
    def ranked(self) -> list[ReportRow]:
        return [row for row in self.rows if row.score is not None]

    @property
    def several(self) -> bool:
        """Whether the rows come from several sweeps or runs."""
        return self.folder is None

    @property
    def metrics(self) -> list[str]:
        """Names of all that was measured beside the score, most often measured first."""
        counts = Counter(name for row in self.rows for name in row.job.metrics)
        return [name for name, _ in counts.most_common() if self.score is None or name != self.score.name]


def gather_report(paths: Sequence[str | Path], *, live: bool = False) -> Report:
    """Everything about the sweeps and runs in these folders; raises ConfigError for a folder that is neither."""
    folders = [Path(folder).expanduser() for folder in paths]
    labels = label_folders(folders)
    problems: list[str] = []
    rows: list[ReportRow] = []
    facts: dict[str, Any] = {}
    runs: list[ReportRow] = []
    for folder in folders:
        try:
            if is_sweep(folder):
                sweep_rows, facts = gather_sweep(folder, labels[folder])
                rows += sweep_rows
            else:
                runs.append(ReportRow(sweep="", name=labels[folder], job=run_folders.read_job(folder), home=folder.absolute(), settings={}))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    for row, settings in zip(runs, run_folders.list_differing([row.folder for row in runs]), strict=True):
        row.settings = settings
    if runs and rows:
        complete_runs(rows, runs)
    rows += runs
    if len(labels) > 1:
        fill_in(rows)
    only_folder = folders[0] if len(folders) == 1 and not runs else None
    report = Report(
        title=labels[folders[0]] if len(folders) == 1 else f"{len(folders)} sweeps and runs",
        folder=only_folder.absolute() if only_folder else None,
        command=format_typed_command(facts.get("command") or "") if only_folder else "",
        rows=rows,
        swept=list(dict.fromkeys([*(facts.get("swept") or [] if only_folder else []), *(key for row in rows for key in row.settings)])),
        score=None,
        objectives=[],
        live=live,
    )
    clean_texts(report)
    rank_rows(report, [report.clean(str(name)) for name in facts.get("objectives") or []] if only_folder else [])
    return report


def format_typed_command(command: str | list[str]) -> str:
    """A sweep's command line, noted as it was typed or word by word."""
    return command if isinstance(command, str) else shlex.join(["python", "run.py", *map(str, command)])


def label_folders(folders: Sequence[Path]) -> dict[Path, str]:
    """A short name for each folder: its own, or its whole path where two are called alike."""
    names = Counter(folder.absolute().name for folder in folders)
    return {folder: name if names[name := folder.absolute().name] == 1 else str(folder) for folder in folders}


def gather_sweep(folder: Path, label: str) -> tuple[list[ReportRow], dict[str, Any]]:
    """The jobs of one sweep and its facts."""
    try:
        with Ledger(folder) as ledger:
            jobs, facts = ledger.read_jobs(), ledger.read_facts()
        if unknown := sorted({str(job.state) for job in jobs} - set(STATES)):
            raise ValueError(f"it has jobs in the state {', '.join(unknown)}")
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise ConfigError(f"{folder}: its ledger cannot be read ({error}); there is nothing to report") from error
    rows, home = [], folder.absolute()
    for job in jobs:
        name = str(job.number) if job.number is not None else f"parent {job.method or job.stage}".strip()
        rows.append(ReportRow(sweep=label, name=name, job=job, home=home, settings=dict(job.values)))
    return rows, facts


def complete_runs(rows: Sequence[ReportRow], runs: Sequence[ReportRow]) -> None:
    """Give runs that stand beside sweeps the settings which these vary."""
    varying_keys = {key for row in rows for key in row.settings}
    for run in runs:
        settings = run_folders.read_settings(run.folder)
        run.settings |= {key: settings[key] for key in varying_keys if key in settings}


def fill_in(rows: Sequence[ReportRow]) -> None:
    """Fill in settings that vary in one sweep and are fixed in another, from the typed words or from the run's config.yaml."""
    varying_keys = {key for row in rows for key in row.settings}
    for row in rows:
        missing = varying_keys - set(row.settings) if row.is_point else set()
        typed_values = {get_key(override): override.partition("=")[2] for override in row.job.overrides} if missing else {}
        row.settings |= {key: typed_values[key] for key in missing if key in typed_values}
        if (missing := missing - set(typed_values)) and (row.folder / run_folders.CONFIG).is_file():
            settings = run_folders.read_settings(row.folder)
            row.settings |= {key: settings[key] for key in missing if key in settings}


def rank_rows(report: Report, objectives: list[str]) -> None:
    """Choose what jobs are ranked by, and put them in order."""
    finished_rows = [row for row in report.rows if row.is_point and row.job.state in SCORED_STATES]
    names = Counter(
        row.job.score_name for row in finished_rows if row.job.score_name and get_value(row.job, row.job.score_name) is not None
    )
    known_objectives = [name for name in objectives if any(get_value(row.job, name) is not None for row in finished_rows)]
    if len(known_objectives) > 1:
        report.objectives = [make_score(name, finished_rows, report.notes) for name in known_objectives]
    score_name = known_objectives[0] if known_objectives else next((name for name, _ in names.most_common(1)), None)
    if score_name is not None:
        report.score = make_score(score_name, finished_rows, report.notes)
        for row in finished_rows:
            row.score = get_value(row.job, score_name)
        others = Counter(row.job.score_name or "none" for row in finished_rows if row.score is None)
        if others:
            other_counts = ", ".join(f"{count} scored by {name}" for name, count in others.most_common())
            report.notes.append(f"Ranked by {score_name}. Finished jobs without it are not ranked: {other_counts}.")
        elif len(names) > 1:
            report.notes.append(f"The jobs have different scores ({', '.join(names)}); all are ranked by {score_name}, which all have.")
    elif finished_rows:
        report.notes.append("No finished job has a score: none was evaluated.")
    sign = 1 if report.score is None or report.score.lower_is_better else -1

    def order(row: ReportRow) -> tuple[bool, float, int, float, str]:
        number = math.inf if row.job.number is None else row.job.number
        return (row.score is None, sign * (row.score or 0.0), STATES.index(row.job.state), number, row.name)

    report.rows.sort(key=order)


def get_value(job: Job, name: str) -> float | None:
    """A job's score or metric of that name; None where it has none, or none that is a finite number."""
    value = job.score if job.score_name == name and job.score is not None else job.metrics.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def make_score(name: str, rows: Sequence[ReportRow], notes: list[str]) -> Score:
    """Make a score by its name. The runs recorded which direction is better."""
    recorded_direction = next((row.job.score_direction for row in rows if row.job.score_name == name and row.job.score_direction), None)
    direction = recorded_direction or DIRECTIONS.get(name)
    if direction is None:
        notes.append(f"Which way {name} is better is recorded nowhere; lower is taken for better.")
    return Score(name=name, lower_is_better=direction != "maximize")


def clean_texts(report: Report) -> None:
    """Clean every text that comes from the ledger or the runs."""
    clean = report.clean
    report.title, report.command = clean(report.title), clean(report.command)
    report.swept = [clean(key) for key in report.swept]
    for row in report.rows:
        row.sweep, row.name = clean(row.sweep), clean(row.name)
        row.settings = {clean(key): clean(str(text)) for key, text in row.settings.items()}
        job = row.job
        for name, text in vars(job).items():
            if isinstance(text, str):
                setattr(job, name, clean(text))
        job.overrides = [clean(str(override)) for override in job.overrides]
        job.metrics = {clean(name): number for name, number in job.metrics.items()}
