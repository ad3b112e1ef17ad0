"""The order of the rows is the run's, however many processes share it: each takes its part of every batch."""

import math
from collections.abc import Iterator
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler, RandomSampler
from transformers.trainer_pt_utils import BatchRebalanceSampler

from lexalign.distributed import collectives


def shard_batch(batch: list[int], *, number: int, of: int) -> list[int]:
    """The rows of a batch that process `number` of `of` computes; as many for each of them.

    Where the rows do not come out even (the last batch of an epoch), each is computed by equally many of them, so that the mean over the
    processes is still the mean over the rows.
    """
    size = len(batch) // math.gcd(len(batch), of)
    return [batch[(number * size + at) % len(batch)] for at in range(size)]


class ShardedBatches(BatchRebalanceSampler):
    """This process's rows of each of `batches`. Subclasses the one batch sampler that transformers' Trainer takes for one which knows of
    the other processes."""

    def __init__(self, batches: Any, *, number: int, of: int):
        self.batches, self.number, self.of = batches, number, of
        self.batch_size = batches.batch_size // of
        self.drop_last = False

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield shard_batch(list(batch), number=self.number, of=self.of)

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def sampler(self) -> Any:
        """Who draws the order: accelerate tells it the epoch, and puts one of its own in the place of a random one."""
        return getattr(self.batches, "sampler", self.batches)

    @sampler.setter
    def sampler(self, drawn: Any) -> None:
        self.batches.sampler = drawn

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order the next iteration has."""
        if hasattr(self.sampler, "set_epoch"):  # else the order is the same in all of them
            self.sampler.set_epoch(epoch)


def make_sharded_loader(loader: Any) -> Any:
    """A data loader over `Shares` that leaves every batch as it is: accelerate wraps it in a sampler that evens them out, and wraps that
    once more to skip what a resumed epoch has done. Told an epoch, a loader then looks for the `sampler` of the inner wrapper."""
    wrapper = loader.batch_sampler
    if isinstance(shares := getattr(wrapper, "batch_sampler", None), ShardedBatches):
        wrapper.batch_size, wrapper.even_batches, wrapper.sampler = None, False, shares.sampler
    return loader


def shard_sampler(sampler: Any, dataset: Any, *, batch_size: int, seed: int) -> Any:
    """What a trainer's `sampler` draws, in batches of `batch_size` rows over all processes, this one's part; one process: as it is."""
    if collectives.world_size() == 1:
        return sampler
    if not isinstance(sampler, BatchRebalanceSampler):
        if isinstance(sampler, RandomSampler):
            sampler = SeedableRandomSampler(dataset, data_seed=seed)  # accelerate's, which it puts in that place itself
        sampler = BatchSampler(sampler, batch_size, drop_last=False)
    return ShardedBatches(sampler, number=collectives.rank(), of=collectives.world_size())
