"""A method that notes which GPUs its process may use, in a file `leases/<seed>`; tests type `extensions=[gpu_lease_trainer]`."""

import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lexalign.trainers.sft import SftObjective


class NoteLease(TrainerCallback):
    """Writes the note before the first step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        (Path(os.environ["LEASES"]) / str(args.seed)).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))


class GpuLeaseTrainer(SftObjective):
    """Trains as sft does."""

    def setup(self, trainer: Any) -> None:
        trainer.add_callback(NoteLease())
