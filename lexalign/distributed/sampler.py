"""Shard each batch over the processes. The order of the rows does not depend on the number of processes."""

import math
from collections.abc import Iterator
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler, RandomSampler
from transformers.trainer_pt_utils import BatchRebalanceSampler

from lexalign.distributed import collectives


def shard_batch(batch: list[int], *, number: int, count: int) -> list[int]:
    """Return the rows of a batch for process `number` of `count`; each process gets the same number of rows.

    If the rows cannot be divided evenly (last batch of an epoch), each row is computed by the same number of processes, so that the mean
    over the processes is still the mean over the rows.
    """
    size = len(batch) // math.gcd(len(batch), count)
    return [batch[(number * size + index) % len(batch)] for index in range(size)]


class ShardedBatches(BatchRebalanceSampler):
    """The rows of this process in each of `batches`. transformers' Trainer treats this base class as a sampler that is sharded already."""

    def __init__(self, batches: Any, *, number: int, count: int):
        self.batches, self.number, self.count = batches, number, count
        self.batch_size = batches.batch_size // count
        self.drop_last = False

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield shard_batch(list(batch), number=self.number, count=self.count)

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def sampler(self) -> Any:
        """The sampler that draws the order. accelerate sets the epoch, and replaces a random one."""
        return getattr(self.batches, "sampler", self.batches)

    @sampler.setter
    def sampler(self, new_sampler: Any) -> None:
        self.batches.sampler = new_sampler

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that decides the order of the next iteration."""
        if hasattr(self.sampler, "set_epoch"):  # else the order is the same in each epoch
            self.sampler.set_epoch(epoch)


def make_sharded_loader(loader: Any) -> Any:
    """Make a data loader over `ShardedBatches` keep each batch. accelerate wraps it in a sampler that evens batches out, and once
    more to skip the finished part of a resumed epoch. For an epoch, a loader then looks for the `sampler` of the inner wrapper."""
    wrapper = loader.batch_sampler
    if isinstance(sharded := getattr(wrapper, "batch_sampler", None), ShardedBatches):
        wrapper.batch_size, wrapper.even_batches, wrapper.sampler = None, False, sharded.sampler
    return loader


def shard_sampler(sampler: Any, dataset: Any, *, batch_size: int, seed: int) -> Any:
    """Shard a trainer's `sampler`, in batches of `batch_size` rows over all processes. With one process it is returned unchanged."""
    if collectives.world_size() == 1:
        return sampler
    if not isinstance(sampler, BatchRebalanceSampler):
        if isinstance(sampler, RandomSampler):
            sampler = SeedableRandomSampler(dataset, data_seed=seed)  # accelerate would use it as well
        sampler = BatchSampler(sampler, batch_size, drop_last=False)
    return ShardedBatches(sampler, number=collectives.rank(), count=collectives.world_size())
