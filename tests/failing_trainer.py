"""A trainer that breaks its process, once for each file `broken/<seed>` that names how; tests type `extensions=[failing_trainer]`."""

import ctypes
import os
import signal
from pathlib import Path
from typing import Any

from lexalign.errors import OutOfMemory
from lexalign.trainers.sft import SFTTrainer


class FailingTrainer(SFTTrainer):
    """Trains as sft does, unless it is to break."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        file = Path(os.environ["BROKEN"]) / str(self.args.seed)
        if file.is_file():
            how = file.read_text()
            file.unlink()
            {"exception": fail, "SIGKILL": kill, "segfault": read_nothing, "memory": run_out}[how]()
        return super().train(*args, **kwargs)


def fail() -> None:
    raise RuntimeError("this one was to fail")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_nothing() -> None:
    ctypes.string_at(0)


def run_out() -> None:
    raise OutOfMemory("needs 90 GB, there are 24; type train.batch_size=1")
