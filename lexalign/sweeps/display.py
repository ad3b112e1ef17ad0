"""What a sweep prints while it runs: a line for each job that starts or ends and, on a terminal, a table of the running jobs."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lexalign.config.secrets import clean
from lexalign.sweeps.job import OUTPUT
from lexalign.sweeps.ledger import Job, format_counts

TAIL = 4096
"""Bytes of a job's output that are looked through for its progress bar."""
REPORT_SECONDS = 15.0
"""Seconds between two reports while jobs run, or twenty times what one takes to write."""


class Display:
    """Prints to stderr. It calls `report`, which writes the report's page, from time to time."""

    def __init__(self, report: Callable[[], None]) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.live: Live | None = None
        self.report = report
        self.next_report = 0.0

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print a line that stays on the terminal."""
        self.console.print(Text(clean(text), style=style), soft_wrap=True)

    def show_start(self, job: Job) -> None:
        gpu = f" on GPU {job.gpu}" if job.gpu else ""
        again = f", attempt {job.attempts}" if job.attempts > 1 else ""
        self.say(f"{name_job(job)} starts{gpu}{again}")

    def show_end(self, job: Job) -> None:
        score = f", {job.score_name} {job.score:.4f}" if job.score is not None else ""
        seconds = f" after {job.seconds:.1f} s" if job.seconds else ""
        why = f": {job.reason}" if job.reason else ""
        self.say(f"{name_job(job)} {job.state}{seconds}{score}{why}", "" if job.state == "finished" else "bold")

    def tick(self, running: Sequence[Job], every: Sequence[Job]) -> None:
        """Draw the jobs at work and, when it is time, the report."""
        if self.live is not None:
            self.live.update(make_table(running, every))
        if time.monotonic() >= self.next_report:
            before = time.monotonic()
            self.report()
            self.next_report = time.monotonic() + max(REPORT_SECONDS, 20 * (time.monotonic() - before))


def name_job(job: Job) -> str:
    """Return a job's name for the user: its number and its values."""
    if job.number is None:
        return f"parent {' '.join(job.overrides)}"
    values = " ".join(f"{key}={value}" for key, value in job.values.items())
    return f"job {job.number}" + (f" ({values})" if values else "")


def make_table(running: Sequence[Job], every: Sequence[Job]) -> Table:
    """Make a table of the running jobs; its title counts the jobs by state."""
    table = Table(title=format_counts(every), title_justify="left", show_header=False, box=None)
    for job in running:
        table.add_row(name_job(job), job.gpu or "", f"{time.time() - (job.started or time.time()):.0f} s", read_progress(Path(job.folder)))
    return table


def read_progress(folder: Path) -> str:
    """Return the last progress bar that a job drew."""
    try:
        with (folder / OUTPUT).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL))
            lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    return next((line[:100] for line in reversed(lines) if "%|" in line), "")


def warn(message: str) -> None:
    """Print a message to stderr, where there is no display yet."""
    print(clean(message), file=sys.stderr)
