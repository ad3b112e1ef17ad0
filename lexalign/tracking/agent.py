"""W&B's own sweeps: `wandb agent` starts a process for each of its runs and says in the environment which run that is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

TOLD = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")


@contextmanager
def unseen(hide: bool) -> Iterator[None]:
    """Within the block, if `hide`, the environment names no run of an agent.

    The agent's run is the process's own: a parent that is trained first, and the jobs of a sweep of ours, are runs beside it.
    """
    kept = {name: os.environ.pop(name) for name in TOLD if name in os.environ} if hide else {}
    try:
        yield
    finally:
        os.environ.update(kept)
