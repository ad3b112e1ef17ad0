"""A trainer that notes which GPUs its process may use, in a file `$LEASES/<seed>`; tests type `extensions=[gpu_lease_trainer]`."""

import os
from pathlib import Path
from typing import Any

from lexalign.trainers.sft import SFTTrainer


class GpuLeaseTrainer(SFTTrainer):
    """Trains as sft does."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        (Path(os.environ["LEASES"]) / str(self.args.seed)).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        return super().train(*args, **kwargs)
