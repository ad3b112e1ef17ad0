"""Whether the disk holds what a run will write."""

import shutil
from pathlib import Path

from lexalign.config.schema import Experiment
from lexalign.errors import DiskFull
from lexalign.training import memory


def estimate_space(experiment: Experiment, sizes: memory.ModelSizes) -> float:
    """Bytes of all checkpoints there will be at once (one is written before the oldest goes) and of the artifact."""
    train, adapter = experiment.train, experiment.adapter
    assert train is not None and adapter is not None
    weights = (sizes.total if adapter.kind == "full" else sizes.trained) * 4
    return (train.keep_checkpoints + 1) * (weights + sizes.trained * memory.STATE_BYTES[train.optimizer]) + weights


def check_space(experiment: Experiment, sizes: memory.ModelSizes, out_dir: Path) -> str:
    """What is needed and what there is, in words; raises DiskFull where it is too little."""
    size, free = estimate_space(experiment, sizes), shutil.disk_usage(out_dir).free
    summary = f"{size / memory.GB:.2f} of {free / memory.GB:.1f} GB free"
    if size > free:
        raise DiskFull(
            f"preflight: the checkpoints and the artifact need {size / memory.GB:.2f} GB and {out_dir} has {free / memory.GB:.2f} GB; "
            "free some, name another output_dir, or type a smaller train.keep_checkpoints"
        )
    return summary
