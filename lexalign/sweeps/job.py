"""One job of a sweep, in a process of its own."""

import ctypes
import dataclasses
import faulthandler
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from lexalign.artifacts import lock
from lexalign.config.compose import Composition
from lexalign.config.context import RunContext
from lexalign.errors import FolderInUse, LexAlignError, Stopped
from lexalign.runs import execute, parents
from lexalign.training import signals

log = logging.getLogger(__name__)
NOT_INITIALIZED = 3
"""What CUDA's driver answers before it was started."""
OUTPUT = "job.out"
"""What a job prints, in its folder."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a job's process is told."""

    composed: Composition
    context: RunContext
    parent_only: bool
    """Not the experiment itself is run but its parent, in the store."""
    output: Path
    """File for what it prints."""
    threads: int
    gpu: str | None
    began: float
    """When the sweep began, in seconds since 1970."""
    pruning: Any = None
    """`lexalign.sweeps.pruning.OptunaPruning`, where bad points stop early."""


def run_task(task: Task) -> None:
    """Run the task and exit with its code; the result is in its folder."""
    os.setsid()  # a key pressed in the terminal is the sweep's, which stops its jobs itself
    task.output.parent.mkdir(parents=True, exist_ok=True)
    with task.output.open("a", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process leaves behind
    threading.Thread(target=follow_parent, daemon=True).start()
    if task.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu
        if has_started_cuda():
            respawn_job(task)
    exit_with(attempt_run(task))


def exit_with(code: int) -> NoReturn:
    """Exit with the code of an attempt."""
    if code in signals.CODES.values():
        signals.exit_now(code)
    sys.exit(code)


def has_started_cuda() -> bool:
    """Whether an import has started CUDA in the process that this one was forked from, which then cannot use it; asking starts nothing."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != NOT_INITIALIZED


def respawn_job(task: Task) -> NoReturn:
    """The same process with an interpreter of its own, which imports everything again."""
    print("Starting without the shared imports: one of them has started CUDA, which does not outlive a fork", file=sys.stderr)
    note = task.output.with_name(f".{OUTPUT}.task")
    note.write_bytes(pickle.dumps(task))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    os.execv(sys.executable, [sys.executable, "-m", "lexalign.sweeps.respawn", str(note)])


def attempt_run(task: Task) -> int:
    """Exit code of the run."""
    from lexalign.runs.run_log import print_error

    signals.began = task.began
    composed = apply_slot(task.composed, task.threads)
    try:
        if task.parent_only:
            parents.run_parent(composed.experiment, task.context.sources, execute.execute)
            return 0
        if task.pruning is not None:
            task.pruning.begin()
        while True:
            try:
                execute.execute(composed, task.context)
                return 0
            except FolderInUse:  # by a job of a sweep that was killed, most likely: it saves and leaves
                lock.wait_until_free(task.context.out_dir)
                time.sleep(lock.TICK)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except Exception as error:
        if not isinstance(error, LexAlignError):
            traceback.print_exc()
        print_error(error, job_name="", out_dir=task.context.out_dir)
        return error.exit_code if isinstance(error, LexAlignError) else 1


def follow_parent() -> None:
    """When the sweep's process is gone, stop as SIGTERM would: save, and leave."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def apply_slot(composed: Composition, threads: int) -> Composition:
    """The experiment with its share of the CPU's threads, unless it names a number of its own."""
    chosen = composed.experiment.hardware
    if chosen.threads is not None:
        return composed
    experiment = dataclasses.replace(composed.experiment, hardware=dataclasses.replace(chosen, threads=threads))
    tree = {**composed.tree, "hardware": {**composed.tree["hardware"], "threads": threads}}
    return dataclasses.replace(composed, experiment=experiment, tree=tree)
