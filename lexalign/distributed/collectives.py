"""Collective operations of the processes of one run. They also work in a run of one process."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

Value = TypeVar("Value")
LONG = timedelta(hours=12)
"""Time limit of a collective operation. It is long because a save or a measurement on one process may take hours. torchrun's agent
notices a dead process."""


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Return whether this process is the one that writes files and logs."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        distributed.barrier()


def all_gather(value: Value) -> list[Value]:
    """Return the values of all processes, by rank, on each process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def broadcast(value: Value) -> Value:
    """Return the value of rank 0 on each process."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def run_on_main(make: Callable[[], Value]) -> Value:
    """Call `make` on rank 0 while the others wait; return its value on each process. An error on rank 0 ends the others too."""
    return broadcast(make() if is_main() else None)  # type: ignore[arg-type, return-value]


def all_mean(value: float) -> float:
    """Return the mean over the processes."""
    return value if world_size() == 1 else sum(all_gather(value)) / world_size()


def all_min(value: float) -> float:
    """Return the smallest value over the processes."""
    return min(all_gather(value))


def shard(items: list[Value]) -> list[Value]:
    """Return the items of this process."""
    return items[rank() :: world_size()]


def shard_in_step(items: list[Value]) -> list[Value]:
    """Return the items of this process, the same number on each, so that all take part in each forward of a sharded model. Some items may
    be computed twice."""
    return [items[index % len(items)] for index in range(rank(), -(-len(items) // world_size()) * world_size(), world_size())]


def merge_shards(results: dict[int, Value]) -> dict[int, Value]:
    """Merge the results of all processes by index. `results` holds those of this process."""
    return results if world_size() == 1 else {index: value for part in all_gather(results) for index, value in part.items()}


def get_backend(device: str) -> str:
    """Return the backend: gloo on the CPU; on GPUs NCCL, with gloo for tensors in main memory."""
    return "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"


def set_device(local: int, device: str) -> None:
    """Choose the GPU of this process by its local rank."""
    if device == "cuda":
        torch.cuda.set_device(local)
