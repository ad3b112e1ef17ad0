"""Checks that the disk has space for the files of a run."""

import shutil
from pathlib import Path

from lexalign.config.schema import Experiment
from lexalign.errors import DiskFull
from lexalign.training import memory


def estimate_space(experiment: Experiment, sizes: memory.ModelSizes) -> float:
    """Estimate the bytes of the artifact and of all checkpoints that exist at once. A new one is written before the oldest is removed."""
    train, adapter = experiment.train, experiment.adapter
    assert train is not None and adapter is not None
    weights = (sizes.total if adapter.kind == "full" else sizes.trained) * 4
    return (train.keep_checkpoints + 1) * (weights + sizes.trained * memory.STATE_BYTES[train.optimizer]) + weights


def check_space(experiment: Experiment, sizes: memory.ModelSizes, out_dir: Path) -> str:
    """The needed and the free space, in words. Raises DiskFull if there is too little space."""
    size, free = estimate_space(experiment, sizes), shutil.disk_usage(out_dir).free
    summary = f"{size / memory.GB:.2f} of {free / memory.GB:.1f} GB free"
    if size > free:
        raise DiskFull(
            f"preflight: the checkpoints and the artifact need {size / memory.GB:.2f} GB and {out_dir} has {free / memory.GB:.2f} GB; "
            "free some, name another output_dir, or type a smaller train.keep_checkpoints"
        )
    return summary
