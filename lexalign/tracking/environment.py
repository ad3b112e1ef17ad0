"""What the environment tells a tracker's library, and what it is not to hear."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

AGENT = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
"""How `wandb agent` says to the process it starts which run of its sweep that is."""
REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_WEBHOOK_URL")
"""Where trackio would send to, or fetch from, besides its own folder."""


@contextmanager
def hide_variables(names: Sequence[str]) -> Iterator[list[str]]:
    """Within the block, the environment has none of these variables; gives those that it had."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield list(kept)
    finally:
        os.environ.update(kept)
