"""One job of a sweep, in a process of its own."""

import dataclasses
import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lexalign import runs
from lexalign.checkpoints import signals
from lexalign.compose import Composed
from lexalign.errors import LexAlignError, Stopped

log = logging.getLogger(__name__)
OUTPUT = "job.out"
"""What a job prints, in its folder."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a job's process is told."""

    composed: Composed
    out_dir: Path | None
    """None: not the experiment itself is run but its parent, in the store."""
    output: Path
    """File for what it prints."""
    name: str
    group: str
    config_dirs: tuple[str, ...]
    threads: int
    gpu: str | None
    began: float
    """When the sweep began, in seconds since 1970."""
    pruning: Any = None
    """`lexalign.sweeps.pruning.Pruning`, where bad points stop early."""


def main(task: Task) -> None:
    """Run the task and exit with its code; the result is in its folder."""
    os.setsid()  # a key pressed in the terminal is the sweep's, which stops its jobs itself
    task.output.parent.mkdir(parents=True, exist_ok=True)
    with task.output.open("a", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process leaves behind
    threading.Thread(target=leave_with_parent, daemon=True).start()
    if task.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu
    signals.began = task.began
    sys.exit(attempt(task))


def attempt(task: Task) -> int:
    """Exit code of the run."""
    from lexalign.launch import tell

    composed = on_this_slot(task.composed, task.threads)
    folder = task.out_dir or task.output.parent
    try:
        if task.out_dir is None:
            runs.run_parent(composed.experiment, config_dirs=task.config_dirs)
            return 0
        if task.pruning is not None:
            task.pruning.begin()
        runs.execute(composed, out_dir=task.out_dir, name=task.name, group=task.group, config_dirs=task.config_dirs)
        return 0
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except Exception as error:
        if not isinstance(error, LexAlignError):
            traceback.print_exc()
        tell(error, job_name="", out_dir=folder)
        return error.exit_code if isinstance(error, LexAlignError) else 1


def leave_with_parent() -> None:
    """When the sweep's process is gone, stop as SIGTERM would: save, and leave."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def on_this_slot(composed: Composed, threads: int) -> Composed:
    """The experiment with its share of the CPU's threads, unless it names a number of its own."""
    chosen = composed.experiment.hardware
    if chosen.threads is not None:
        return composed
    experiment = dataclasses.replace(composed.experiment, hardware=dataclasses.replace(chosen, threads=threads))
    tree = {**composed.tree, "hardware": {**composed.tree["hardware"], "threads": threads}}
    return dataclasses.replace(composed, experiment=experiment, tree=tree)
