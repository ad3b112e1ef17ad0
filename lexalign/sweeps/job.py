"""One job of a sweep, in a process of its own."""

import dataclasses
import faulthandler
import logging
import multiprocessing
import os
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
from lexalign.config import hardware
from lexalign.config.compose import Composition
from lexalign.config.context import RunContext
from lexalign.config.secrets import guard_streams
from lexalign.errors import ConfigError, FolderInUse, LexAlignError, Stopped
from lexalign.runs import execute, parents
from lexalign.training import signals

log = logging.getLogger(__name__)
OUTPUT = "job.out"
"""What a job prints, in its folder."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a job's process needs to know."""

    composed: Composition
    context: RunContext
    parent_only: bool
    """Not the experiment itself is run but its parent, in the store."""
    output: Path
    """File for what it prints."""
    threads: int
    gpu: str | None
    device: str
    """What the sweep planned the job for: cpu, cuda or mps."""
    began: float
    """When the sweep began, in seconds since 1970."""
    pruning: Any = None
    """`lexalign.sweeps.pruning.OptunaPruning`, where bad points stop early."""


def run_task(task: Task) -> None:
    """Run the task and exit with its code; the result is in its folder."""
    os.setsid()  # Ctrl-C in the terminal goes to the sweep only, which stops its jobs itself
    task.output.parent.mkdir(parents=True, exist_ok=True)
    with task.output.open("a", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    guard_streams()
    faulthandler.enable()
    tqdm.set_lock(threading.RLock())  # tqdm's own lock is a system semaphore, which a killed process would leave behind
    threading.Thread(target=follow_parent, daemon=True).start()
    if task.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu
    exit_with(attempt_run(task))


def exit_with(code: int) -> NoReturn:
    """Exit with the code of an attempt."""
    if code in signals.CODES.values():
        signals.exit_now(code)
    sys.exit(code)


def refuse_other_device(task: Task) -> None:
    """Raise ConfigError where this process does not find the device that the sweep planned the job for: it would train on another one.

    A process that was forked from one that has started CUDA finds no card.
    """
    hardware.load_cuda_driver.cache_clear()
    hardware.count_cuda_devices.cache_clear()
    wanted = task.composed.experiment.hardware.device
    device = hardware.resolve_device(wanted)
    if device == task.device and (device != "cuda" or hardware.count_cuda_devices()):
        return
    cards = f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')}, {hardware.count_cuda_devices()} cards found"
    raise ConfigError(
        f"hardware.device={wanted}: the sweep planned this job for {task.device}, and its process would use {device} ({cards}); "
        "type the command again, or hardware.device=cpu to train on the CPU"
    )


def attempt_run(task: Task) -> int:
    """Run the task and return the exit code."""
    from lexalign.runs.run_log import print_error

    signals.began = task.began
    composed = apply_slot(task.composed, task.threads)
    try:
        refuse_other_device(task)
        if task.parent_only:
            parents.run_parent(composed.experiment, task.context.sources, execute.execute)
            return 0
        if task.pruning is not None:
            task.pruning.install()
        while True:
            try:
                execute.execute(composed, task.context)
                return 0
            except FolderInUse:  # most likely a job of a killed sweep, which saves and exits
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
    """Wait for the end of the sweep's process, then stop this one as SIGTERM would: save and exit."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def apply_slot(composed: Composition, threads: int) -> Composition:
    """The experiment with its share of the CPU's threads, unless it names a number of its own."""
    settings = composed.experiment.hardware
    if settings.threads is not None:
        return composed
    experiment = dataclasses.replace(composed.experiment, hardware=dataclasses.replace(settings, threads=threads))
    tree = {**composed.tree, "hardware": {**composed.tree["hardware"], "threads": threads}}
    return dataclasses.replace(composed, experiment=experiment, tree=tree)
