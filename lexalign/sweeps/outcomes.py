"""The outcome of a job, read from its folder and checked by its content key. Clocks play no part."""

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from lexalign.artifacts.result import RESULT, Result, read_result
from lexalign.sweeps.ledger import Job, State
from lexalign.sweeps.report.folders import count_steps

DONE: tuple[State, ...] = ("finished", "pruned")
WITHOUT_ERROR = ("finished", "planned", "paused", "pruned")
SILENT = "the sweep was killed"
"""Why a job ended of which nothing is known."""
OTHER_KEY = "its folder holds the result of another run than was planned (other settings, data, model or code); type the command again"


@dataclass(frozen=True)
class Attempt:
    """One process of a job, from just before its start."""

    result_before: bytes | None
    """What `result.json` held then."""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.began


def begin_attempt(job: Job) -> Attempt:
    """Note the state of a job's folder, just before its process starts."""
    return Attempt(read_bytes(Path(job.folder)))


def read_bytes(folder: Path) -> bytes | None:
    """The bytes of a run's `result.json`; None where there is none."""
    try:
        return (folder / RESULT).read_bytes()
    except OSError:
        return None


def read_whole_result(folder: Path) -> Result | None:
    """A run's result; None where there is none, or where its file is damaged."""
    try:
        return read_result(folder)
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def absorb_outcome(job: Job, exit_code: int | None, attempt: Attempt | None = None, *, is_own: bool | None = None) -> None:
    """Fill in a job from what its process left. `exit_code` is None where nobody saw it end, and `attempt` None where nobody saw it begin.

    A finished result counts when its content key is the job's, whoever wrote it and whenever. `is_own` decides for a result with another
    key. A result without success that was there before the process started says nothing of it.
    """
    folder = Path(job.folder)
    result = read_whole_result(folder)
    is_old = attempt is not None and read_bytes(folder) == attempt.result_before
    if is_old and not (result is not None and result.status in WITHOUT_ERROR and exit_code in (0, None)):
        result = None
    if attempt is not None and exit_code is not None:
        job.seconds += attempt.seconds
    elif result is not None:
        job.seconds += result.seconds or 0.0
    job.pid, job.reason = None, None
    has_other_key = result is not None and result.key is not None and result.key != job.key
    if result is not None and result.status in WITHOUT_ERROR and has_other_key and not is_own:
        job.state, job.reason = "failed", OTHER_KEY
    elif result is not None and result.status in WITHOUT_ERROR:
        job.state = result.status  # type: ignore[assignment]
        copy_result(job, result)
        if result.status in ("paused", "pruned"):
            job.steps, job.reason = count_steps(folder), (result.error or "").removeprefix(f"Stopped: {result.status} ")
    elif result is not None and result.status in ("interrupted", "stopped"):
        job.state, job.reason = "interrupted", result.error
    elif result is not None and (exit_code is None or exit_code > 0):
        job.state, job.reason = "failed", result.error
    elif exit_code is None:
        job.state, job.reason = "interrupted", SILENT
    else:
        job.state, job.reason = "failed", describe_exit(exit_code)


def copy_result(job: Job, result: Result) -> None:
    """Copy a run's score and metrics into its job."""
    job.score, job.score_name, job.score_direction = result.score, result.score_name, result.score_direction
    job.metrics, job.steps = result.metrics["after"], result.counts.get("steps")


def fill_from_finished_run(job: Job, result: Result) -> None:
    """Fill in a job from the finished run that `lexalign.runs.parents.recall_finished_run` found."""
    job.state, job.folder, job.reason, job.pid = "finished", str(Path(result.details["folder"]).resolve()), None, None
    job.seconds = result.seconds or 0.0
    copy_result(job, result)


def describe_exit(exit_code: int) -> str:
    """Describe the exit code of a process that left no result."""
    if exit_code >= 0:
        return f"exit code {exit_code}; nothing else was left"
    name = signal.Signals(-exit_code).name
    return f"killed by {name}" + {"SIGKILL": " (out of memory, perhaps)", "SIGSEGV": " (a segmentation fault)"}.get(name, "")


def read_last_line(file: Path) -> str | None:
    """Return the last line that a process printed; None where it printed nothing."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
