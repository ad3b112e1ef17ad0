"""The processes that compute one run together, seen from inside one of them. A run of one process is a group of one."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

Value = TypeVar("Value")
LONG = timedelta(hours=12)
"""How long one waits for another: that another is dead is seen by the agent, that it still works (a large save, a long measurement) by
nobody."""


def world_size() -> int:
    """How many they are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the one that writes and speaks."""
    return rank() == 0


def barrier() -> None:
    """Until all of them are here."""
    if world_size() > 1:
        distributed.barrier()


def all_gather(value: Value) -> list[Value]:
    """What each of them has, in order, known to all."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    distributed.all_gather_object(found, value)
    return found


def broadcast(value: Value) -> Value:
    """What the first one has, known to all."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def run_on_main(make: Callable[[], Value]) -> Value:
    """What `make` gives, called by the first one while the others wait. An error of its own ends the others with it."""
    return broadcast(make() if is_main() else None)  # type: ignore[arg-type, return-value]


def all_mean(value: float) -> float:
    """The mean over the processes."""
    return value if world_size() == 1 else sum(all_gather(value)) / world_size()


def all_min(value: float) -> float:
    """The smallest of what they have."""
    return min(all_gather(value))


def shard(items: list[Value]) -> list[Value]:
    """Of work that is shared out, this one's part."""
    return items[rank() :: world_size()]


def shard_in_step(items: list[Value]) -> list[Value]:
    """This one's part of work in which a model's parts are fetched from the others: as many items for each of them, so that some may
    be done twice."""
    return [items[at % len(items)] for at in range(rank(), -(-len(items) // world_size()) * world_size(), world_size())]


def merge_shards(found: dict[int, Value]) -> dict[int, Value]:
    """The results of all of them by index, each having those of its `own` part."""
    return found if world_size() == 1 else {at: value for part in all_gather(found) for at, value in part.items()}


def get_backend(device: str) -> str:
    """Who carries what between them: gloo on the CPU, NCCL between GPUs, and gloo for what lies in memory."""
    return "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"


def set_device(local: int, device: str) -> None:
    """Of the GPUs of this machine, the one that belongs to this process."""
    if device == "cuda":
        torch.cuda.set_device(local)
