"""Variables of the environment that a tracker's library reads, and some that it must not read."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

AGENT = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
"""Variables with which `wandb agent` tells its process which run of its sweep it is."""
REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_WEBHOOK_URL")
"""Variables that make trackio send data elsewhere, or fetch data."""


@contextmanager
def hide_variables(names: Sequence[str]) -> Iterator[list[str]]:
    """Remove these variables from the environment during the block; yield the names of those that were set."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield list(hidden)
    finally:
        os.environ.update(hidden)
