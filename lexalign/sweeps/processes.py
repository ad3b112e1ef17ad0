"""Jobs in processes of their own: forked from one that has imported what they need, or new ones where they use a GPU."""

import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from lexalign.artifacts import lock
from lexalign.sweeps import job as jobs
from lexalign.sweeps.ledger import Job
from lexalign.sweeps.slots import Slot
from lexalign.training import signals

log = logging.getLogger(__name__)
TICK = 0.5
"""Seconds after which the display is drawn again."""
PATIENCE = 600.0
"""Seconds that a stopped job has to finish its step and save."""
SERVER_LOST = 255
"""Exit code that multiprocessing gives a process whose server is gone."""


class JobSource(Protocol):
    """Where jobs come from, and where they go when they have ended."""

    def take_job(self) -> Job | None:
        """The next job that can start now."""

    def has_waiting(self) -> bool:
        """Whether there may be more, once others have ended."""

    def make_task(self, job: Job, slot: Slot) -> jobs.Task:
        """What its process needs to know."""

    def note_start(self, job: Job) -> None:
        """It has a process now."""

    def note_end(self, job: Job, exit_code: int) -> None:
        """Its process is gone."""

    def tick(self, running: Sequence[Job]) -> None:
        """Called twice a second."""


@dataclass
class RunningJob:
    """A job at work."""

    job: Job
    process: BaseProcess
    slot: Slot
    is_stopping: bool = False
    """Whether it has been sent SIGTERM."""


def make_fork_context(modules: Sequence[str]) -> ForkServerContext:
    """Make what starts jobs on the CPU: a server that imports `lexalign.sweeps.preload` and `modules` once, and forks."""
    context = multiprocessing.get_context("forkserver")
    importable = [name for name in dict.fromkeys(modules) if importlib.util.find_spec(name) is not None]
    context.set_forkserver_preload(["lexalign.sweeps.preload", *importable])
    return context


@contextmanager
def share_import_path() -> Iterator[None]:
    """Within the block, a new interpreter finds the modules that this one finds."""
    before = os.environ.get("PYTHONPATH")
    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def run_jobs(source: JobSource, slots: Sequence[Slot], modules: Sequence[str]) -> None:
    """Run the source's jobs until there are no more, one on each slot.

    A job that fails or is killed does not stop the others. A signal stops all of them as it would stop a single run: they finish their
    step, save, and can be continued; then Stopped is raised. A second SIGINT kills them.
    """
    fork_context, free = make_fork_context(modules), list(slots)
    running: dict[int, RunningJob] = {}
    with signals.handle_signals(), share_import_path():
        try:
            with signals.defer_signals(None):
                while True:
                    while free and signals.get_stop_reason() is None and (job := source.take_job()) is not None:
                        slot = free.pop(0)
                        process = start_job(fork_context, source.make_task(job, slot))
                        job.pid, job.host, job.gpu, job.started = process.pid, socket.gethostname(), slot.gpu, time.time()
                        job.attempts, job.state = job.attempts + 1, "running"
                        running[process.sentinel] = RunningJob(job, process, slot)
                        source.note_start(job)
                    if not running:
                        if source.has_waiting() and signals.get_stop_reason() is None:
                            raise AssertionError("jobs wait for jobs that will never run")
                        return
                    if signals.get_stop_reason() is not None:
                        stop_jobs(running)
                    reap_jobs(running, free, source)
        finally:
            kill_jobs(running)
            reap_jobs(running, free, source, wait_for_all=True)


def start_job(fork_context: ForkServerContext, task: jobs.Task, target: Callable[[jobs.Task], None] = jobs.run_task) -> BaseProcess:
    """A process at work on a task; its server is started anew where it is gone.

    A job for a GPU gets an interpreter of its own: an import may start CUDA in a server, and CUDA does not outlive a fork.
    """
    context: ForkServerContext | SpawnContext = fork_context if task.device == "cpu" else multiprocessing.get_context("spawn")
    for attempt in (1, 2):
        process = context.Process(target=target, args=(task,))
        try:
            process.start()
            return process
        except (EOFError, ConnectionError, BrokenPipeError):
            if attempt == 2:
                raise
            time.sleep(TICK)
    raise AssertionError


def reap_jobs(running: dict[int, RunningJob], free: list[Slot], source: JobSource, *, wait_for_all: bool = False) -> None:
    """Handle the jobs that have ended."""
    while running:
        for sentinel in wait(list(running), timeout=TICK):
            assert isinstance(sentinel, int)
            finished_job = running[sentinel]
            finished_job.process.join()
            code = finished_job.process.exitcode
            assert code is not None
            if code == SERVER_LOST and finished_job.job.folder and lock.is_alive(Path(finished_job.job.folder)):
                os.kill(finished_job.process.pid or 0, signal.SIGTERM)  # its exit code would be lost
                lock.wait_until_free(Path(finished_job.job.folder), patience=PATIENCE)
            del running[sentinel]
            free.append(finished_job.slot)
            source.note_end(finished_job.job, code)
        source.tick([one.job for one in running.values()])
        if not wait_for_all:
            return


def stop_jobs(running: dict[int, RunningJob]) -> None:
    """Ask every job, once, to finish its step and save."""
    for one in running.values():
        if not one.is_stopping:
            one.is_stopping = True
            with suppress(ProcessLookupError):
                os.kill(one.process.pid or 0, signal.SIGTERM)


def kill_jobs(running: dict[int, RunningJob]) -> None:
    """Kill the jobs that still run."""
    for one in running.values():
        one.process.kill()
