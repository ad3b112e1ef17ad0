"""`ledger.sqlite` in a sweep's folder: every job with its state, progress and score.

The process that runs the sweep is its only writer; others may read while it writes. On a network file system, whose locks and shared memory
SQLite cannot rely on, it keeps no write-ahead log, and its lock is a folder, `ledger.sqlite.lock`.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from lexalign.artifacts import file_systems
from lexalign.artifacts.files import LEDGER
from lexalign.errors import ConfigError, DiskFull

VERSION = 1
LOCK = f"{LEDGER}.lock"
"""SQLite's own, on a network file system."""
LOCKED_SECONDS = 10.0
"""After which it was left behind; a transaction takes a fraction of a second."""
State = Literal["waiting", "running", "finished", "paused", "pruned", "failed", "interrupted", "planned"]
STATES: tuple[str, ...] = get_args(State)


@dataclass(kw_only=True)
class Job:
    """One job: a point of a sweep, or a parent that points share."""

    key: str
    """Content key of its resolved experiment."""
    number: int | None
    """The point's number, which is its folder's name; None for a parent."""
    overrides: list[str]
    """What one would type to run it alone, but for its folder."""
    values: dict[str, str] = field(default_factory=dict)
    """The settings that the sweep varies, as typed."""
    stage: str = ""
    method: str | None = None
    folder: str = ""
    """Where its run is, absolute: below the sweep's folder, or where the same work was done before."""
    parent: str | None = None
    """Content key of the parent it starts from."""
    state: State = "waiting"
    attempts: int = 0
    pid: int | None = None
    host: str | None = None
    gpu: str | None = None
    started: float | None = None
    """When its last attempt began, in seconds since 1970."""
    seconds: float = 0.0
    """Of all its attempts."""
    steps: int | None = None
    """Optimizer steps done."""
    score: float | None = None
    score_name: str | None = None
    score_direction: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Measured after training."""
    reason: str | None = None
    """Why it failed or stopped, in one line."""
    command: str | None = None
    """The sweep's command line in which it came first."""
    standing: str | None = None
    """Digest of everything else that its key depends on, apart from the typed words; see `lexalign.sweeps.fingerprint`."""


COLUMNS = [column.name for column in fields(Job)]
AS_JSON = ("overrides", "values", "metrics")


class Ledger:
    """The jobs of one sweep, by key. Use as a context manager."""

    def __init__(self, folder: Path, *, write: bool = False):
        self.folder = folder.absolute()
        self.path = folder / LEDGER
        if not write and not self.path.is_file():
            raise ConfigError(f"{folder}: holds no sweep ({LEDGER} is not there); name the folder of a sweep, or of a run")
        self.write = write
        self.connection = self._open()

    def _open(self) -> sqlite3.Connection:
        shared = file_systems.get_network_file_system(self.folder) is not None
        if shared and self.write:
            self._forget_left_lock()
        options = ["mode=rwc" if self.write else "mode=ro", *self._options() * shared]
        connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?{'&'.join(options)}", uri=True, timeout=30)
        try:
            if shared and self.write:  # the ledger may have been made on a local disk
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")
                connection.execute("PRAGMA journal_mode=DELETE")
                connection.execute("PRAGMA locking_mode=NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION) or (version == 0 and not self.write):
                raise ConfigError(
                    f"{self.path}: is a ledger of version {version}, this lexalign writes version {VERSION}; "
                    "name another output_dir, or type sweep.fresh=true"
                )
            if self.write and version == 0:
                self._create(connection, journal="DELETE" if shared else "WAL")
        except sqlite3.DatabaseError as error:
            connection.close()
            if "locked" in str(error):
                raise ConfigError(f"{self.path}: is locked; if no process uses it, remove {self.path.with_name(LOCK)}") from error
            raise ConfigError(
                f"{self.path}: cannot be read as a ledger ({error}); type the sweep's command again, which rebuilds it from its folders"
            ) from error
        except ConfigError:
            connection.close()
            raise
        return connection

    @staticmethod
    def _create(connection: sqlite3.Connection, *, journal: str) -> None:
        column_types = {"key": "TEXT PRIMARY KEY", "number": "INTEGER UNIQUE", "values": "TEXT"}
        columns = ", ".join(f'"{name}" {column_types.get(name, "")}' for name in COLUMNS)
        connection.execute(f"PRAGMA journal_mode={journal}")
        with connection:
            connection.execute(f"CREATE TABLE IF NOT EXISTS jobs ({columns})")
            connection.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)")
            connection.execute(f"PRAGMA user_version={VERSION}")

    def _options(self) -> list[str]:
        """How SQLite is to open the file on a network file system."""
        with suppress(OSError), self.path.open("rb") as file:
            if not self.write and file.read(20)[18:] == b"\2\2" and not self.path.with_name(f"{LEDGER}-wal").exists():
                return ["immutable=1"]  # it was made with a write-ahead log and copied here: no process writes to it
        return ["vfs=unix-dotfile"]

    def _forget_left_lock(self) -> None:
        """Remove SQLite's lock where a killed process has left it. Only this process writes here, and readers hold it only briefly."""
        lock = self.path.with_name(LOCK)
        with suppress(OSError):
            since, seen = time.monotonic(), lock.stat().st_mtime_ns
            while time.monotonic() - since < LOCKED_SECONDS:  # measured with this machine's clock; the file's time comes from its server
                time.sleep(0.1)
                if (now := lock.stat().st_mtime_ns) != seen:
                    since, seen = time.monotonic(), now
            lock.rmdir()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.connection.close()

    def read_jobs(self) -> list[Job]:
        """Every job: the points by number, then the parents."""
        names = ", ".join(f'"{name}"' for name in COLUMNS)
        rows = self.connection.execute(f"SELECT {names} FROM jobs ORDER BY number IS NULL, number")
        jobs = [Job(**{name: json.loads(v) if name in AS_JSON else v for name, v in zip(COLUMNS, row, strict=True)}) for row in rows]
        for job in jobs:
            job.folder = str(self.folder / job.folder) if job.folder else ""
        return jobs

    def read_facts(self) -> dict[str, Any]:
        """What is true of the sweep as a whole."""
        return {name: json.loads(value) for name, value in self.connection.execute("SELECT name, value FROM facts")}

    def write_facts(self, **facts: Any) -> None:
        """Keep facts of the sweep as a whole."""
        with self._writing():
            rows = [(name, json.dumps(value)) for name, value in facts.items()]
            self.connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def write_jobs(self, jobs: Iterable[Job]) -> None:
        """Add jobs, or replace those of the same keys; all of them or none."""
        marks = ", ".join("?" * len(COLUMNS))
        rows = [[self._to_column(name, getattr(job, name)) for name in COLUMNS] for job in jobs]
        with self._writing():
            self.connection.executemany(f"INSERT OR REPLACE INTO jobs VALUES ({marks})", rows)

    def _to_column(self, name: str, value: Any) -> Any:
        """Return a column's value as it is stored. A folder below the sweep's is stored by its relative name: a sweep may be moved."""
        if name == "folder" and value and Path(value).is_relative_to(self.folder):
            return str(Path(value).relative_to(self.folder))
        if name in AS_JSON:
            return json.dumps(value)
        # An error's text may hold what UTF-8 cannot.
        return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value

    def find_next_number(self) -> int:
        """The first number that no job has."""
        return (self.connection.execute("SELECT MAX(number) FROM jobs").fetchone()[0] or 0) + 1 if self._any() else 0

    def _any(self) -> bool:
        return self.connection.execute("SELECT 1 FROM jobs WHERE number IS NOT NULL LIMIT 1").fetchone() is not None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction; raises DiskFull where the disk has no room for it (what was written before stays)."""
        assert self.write
        try:
            with self.connection:
                yield
        except sqlite3.OperationalError as error:
            if "full" not in str(error) and "disk I/O" not in str(error):
                raise
            free = os.statvfs(self.folder)
            raise DiskFull(
                f"{self.path}: no room to note what became of a job ({free.f_bavail * free.f_frsize / 1e6:,.1f} MB free); "
                "free some, and type the same command again: what is finished stays finished"
            ) from error


def format_counts(jobs: Sequence[Job]) -> str:
    """How many points are in which state: `24 finished, 8 failed`."""
    points = [job for job in jobs if job.number is not None]
    counts = {state: sum(job.state == state for job in points) for state in STATES}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no jobs"
