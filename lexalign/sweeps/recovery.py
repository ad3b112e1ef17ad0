"""A ledger that is lost or damaged is rebuilt from the folders of the jobs: each holds a note of its point, and its result."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from lexalign.artifacts.files import LEDGER, write_json, write_text
from lexalign.artifacts.result import RESULT
from lexalign.errors import ConfigError
from lexalign.sweeps.display import warn
from lexalign.sweeps.ledger import STATES, Job, Ledger
from lexalign.sweeps.outcomes import absorb_outcome, read_whole_result
from lexalign.sweeps.points import make_standalone_command
from lexalign.sweeps.report.folders import CONFIG, SWEEP_NOTE

NOTE = "point.json"
"""In a job's folder: which point of the sweep it is."""
NOTED = ("key", "overrides", "values", "stage", "method", "parent", "command", "standing")
BESIDE = ("", "-wal", "-shm", "-journal")
"""Ends of the names of SQLite's files."""


def open_ledger(folder: Path) -> Ledger:
    """Open the ledger of a sweep's folder for writing. A ledger that cannot be read is moved aside, with a message."""
    if not (folder / LEDGER).is_file():
        move_aside(folder, BESIDE[1:])  # a log without its ledger belongs to a ledger that is gone
    try:
        ledger = Ledger(folder, write=True)
    except ConfigError as error:
        if not isinstance(error.__cause__, sqlite3.DatabaseError) or "locked" in str(error.__cause__):
            raise
        return replace_ledger(folder, error.__cause__)
    try:
        refuse_damage(ledger)
    except (sqlite3.DatabaseError, ValueError, TypeError, RecursionError) as error:
        ledger.connection.close()
        return replace_ledger(folder, error)
    return ledger


def refuse_damage(ledger: Ledger) -> None:
    """Raise sqlite3.DatabaseError or ValueError where the ledger cannot be read from end to end."""
    (answer,) = ledger.connection.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise ValueError(answer)
    unknown = {str(job.state) for job in ledger.read_jobs()} - set(STATES)
    if unknown:
        raise ValueError(f"it has jobs in the state {', '.join(sorted(unknown))}")
    ledger.read_facts()


def replace_ledger(folder: Path, error: BaseException) -> Ledger:
    """A new ledger in place of a damaged one."""
    aside = move_aside(folder, BESIDE)
    warn(f"{folder / LEDGER}: is damaged ({error}); it is kept as {aside}, and a new one is made from the jobs' folders")
    return Ledger(folder, write=True)


def move_aside(folder: Path, ends: Sequence[str]) -> str:
    """Rename SQLite's files; return the ledger's new name."""
    number = 1
    while any((folder / f"{LEDGER}.damaged-{number}{end}").exists() for end in BESIDE):
        number += 1
    for end in ends:
        if (folder / f"{LEDGER}{end}").is_file():
            (folder / f"{LEDGER}{end}").rename(folder / f"{LEDGER}.damaged-{number}{end}")
    return f"{LEDGER}.damaged-{number}"


def note_point(job: Job) -> None:
    """Write down in a job's folder which point it is."""
    write_json(Path(job.folder) / NOTE, {name: getattr(job, name) for name in NOTED})


def note_sweep(folder: Path, **facts: Any) -> None:
    """Write down in the sweep's folder what it is."""
    write_text(folder / SWEEP_NOTE, OmegaConf.to_yaml(facts))


def read_sweep_note(folder: Path) -> dict[str, Any]:
    """What the sweep's folder says of it; empty where it says nothing that can be read."""
    try:
        note = yaml.safe_load((folder / SWEEP_NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return note if isinstance(note, dict) else {}


def list_lost_jobs(folder: Path) -> list[Job]:
    """The jobs whose folders are below a sweep's, by number, each with what became of it."""
    jobs: dict[str, Job] = {}
    for number in list_numbers(folder):
        job = read_lost_job(folder.absolute() / str(number), number)
        if job is not None and job.key not in jobs:
            jobs[job.key] = job
    return list(jobs.values())


def list_numbers(folder: Path) -> list[int]:
    """The numbers that name folders of runs below a sweep's."""
    numbered = [path for path in folder.iterdir() if path.name.isascii() and path.name.isdigit()]
    return sorted(int(path.name) for path in numbered if any((path / name).exists() for name in (NOTE, RESULT, CONFIG)))


def read_lost_job(folder: Path, number: int) -> Job | None:
    """One job; None where its folder says neither which point it is nor, by a result, which run."""
    result = read_whole_result(folder)
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        job = Job(number=number, folder=str(folder), **{name: note[name] for name in NOTED})
        is_whole = isinstance(job.key, str) and isinstance(job.overrides, list) and isinstance(job.values, dict)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        is_whole = False
    if not is_whole:
        if result is None or not result.key or result.command is None:
            return None
        words = make_standalone_command([str(word) for word in result.command])
        job = Job(key=result.key, number=number, folder=str(folder), overrides=words, stage=result.stage, method=result.method)
    job.attempts = 1
    absorb_outcome(job, None)
    return job
