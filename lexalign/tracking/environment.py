"""Variables of the environment that a tracker's library reads, and some that it must not read."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

AGENT = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
"""Variables with which `wandb agent` tells its process which run of its sweep it is."""
REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_WEBHOOK_URL")
"""Variables that make trackio send data elsewhere, or fetch data."""

NAMED = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
}
"""W&B's variables for what our settings name too. A variable that is set wins over a setting that was not typed."""


def read_wandb_variables(typed: Iterable[str], *, is_one_of_many: bool, is_sweep: bool) -> dict[str, str]:
    """Return the values of W&B's variables that win, by the name of the setting.

    The jobs of a sweep keep their own names (`is_one_of_many`), and the summary of a sweep its job type too: they are told apart by them.
    """
    keys = {override.partition("=")[0].lstrip("+") for override in typed}
    distinct = {"name"} if is_one_of_many else set()
    distinct |= {"job_type", "name"} if is_sweep else set()
    return {
        name: os.environ[variable]
        for name, variable in NAMED.items()
        if os.environ.get(variable) and f"tracking.{name}" not in keys and name not in distinct
    }


def read_wandb_tags() -> list[str]:
    """Return the tags in WANDB_TAGS, which are added to ours."""
    return [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag.strip()]


@contextmanager
def hide_variables(names: Sequence[str]) -> Iterator[list[str]]:
    """Remove these variables from the environment during the block; yield the names of those that were set."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield list(hidden)
    finally:
        os.environ.update(hidden)
