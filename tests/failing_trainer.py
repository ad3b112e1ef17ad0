"""A method that breaks its process, once for each file `broken/<seed>` that names how; tests type `extensions=[failing_trainer]`."""

import ctypes
import os
import signal
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lexalign.errors import OutOfMemory
from lexalign.trainers.sft import SftObjective


class FailingTrainer(SftObjective):
    """Trains as sft does, unless there is a file for its seed."""

    def setup(self, trainer: Any) -> None:
        trainer.add_callback(BreakAtStart())


class BreakAtStart(TrainerCallback):
    """Breaks before the first step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        file = Path(os.environ["BROKEN"]) / str(args.seed)
        if file.is_file():
            how = file.read_text()
            file.unlink()
            {"exception": fail, "SIGKILL": kill, "segfault": read_nothing, "memory": run_out}[how]()


def fail() -> None:
    raise RuntimeError("this one was to fail")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_nothing() -> None:
    ctypes.string_at(0)


def run_out() -> None:
    raise OutOfMemory("needs 90 GB, there are 24; type train.batch_size=1")
