"""Batches of rows of near-equal length, of a fixed number of rows or of a bounded number of tokens."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from transformers.trainer_pt_utils import BatchRebalanceSampler

from lexalign.config.schema import Train
from lexalign.distributed.sampler import make_sharded_loader, shard_sampler

POOL = 64
"""Number of batches whose rows are sorted together. A larger pool makes lengths more equal, a smaller one makes batches more random."""


class NearEqualBatches(BatchRebalanceSampler):
    """Batches as lists of row indices. They are the same in every epoch, but in a new order. `seed` decides both.

    A batch holds `batch_size` rows, or with `max_tokens` as many rows as fit (at least one). Every row is in exactly one batch.
    `shard_sampler` recognises by the base class that this sampler gives whole batches.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, max_tokens: int | None, seed: int):
        self.seed = seed
        self.epoch = 0
        self.batches = list(make_near_equal_batches(lengths, batch_size=batch_size, max_tokens=max_tokens, seed=seed))
        self.batch_size = batch_size
        self.drop_last = False

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(len(self.batches)))
        random.Random(f"{self.seed}-{self.epoch}").shuffle(order)
        return iter([self.batches[at] for at in order])

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that decides the order of the next iteration."""
        self.epoch = epoch


def make_near_equal_batches(lengths: Sequence[int], *, batch_size: int, max_tokens: int | None, seed: int) -> Iterator[list[int]]:
    """Make the batches: shuffle the rows, sort each pool by length, and split it into batches."""
    rows = list(range(len(lengths)))
    random.Random(seed).shuffle(rows)
    per_batch = batch_size if max_tokens is None else max(1, max_tokens * len(lengths) // max(1, sum(lengths)))
    for first in range(0, len(rows), POOL * per_batch):
        batch: list[int] = []
        tokens = 0
        for row in sorted(rows[first : first + POOL * per_batch], key=lambda row: lengths[row]):
            is_full = len(batch) == batch_size if max_tokens is None else bool(batch) and tokens + lengths[row] > max_tokens
            if is_full:
                yield batch
                batch, tokens = [], 0
            batch.append(row)
            tokens += lengths[row]
        if batch:
            yield batch


def make_train_sampler(dataset: Any, train: Train, seed: int, *, is_sequential: bool) -> Any:
    """The sampler of the rows: random, in their own order (`is_sequential`), or in batches of near-equal length."""
    if train.group_by_length or train.max_tokens is not None:
        return NearEqualBatches(dataset["size"], batch_size=train.batch_size, max_tokens=train.max_tokens, seed=seed)
    return SequentialSampler(dataset) if is_sequential else RandomSampler(dataset)


def make_loader(trainer: Any, dataset: Any, sampler: Any, *, batch_size: int, seed: int) -> Any:
    """A data loader, prepared by accelerate, of this process's part of each batch. A batch has `batch_size` rows over all processes."""
    args = trainer.args
    process_sampler = shard_sampler(sampler, dataset, batch_size=batch_size, seed=seed)
    is_ready = isinstance(process_sampler, BatchRebalanceSampler)
    sampler_arguments = {"batch_sampler": process_sampler} if is_ready else {"sampler": process_sampler, "batch_size": batch_size}
    loader = trainer.accelerator.prepare(
        DataLoader(
            dataset,
            collate_fn=trainer.data_collator,
            pin_memory=args.dataloader_pin_memory,
            **sampler_arguments,
        )
    )
    wrapper = getattr(loader, "batch_sampler", None)
    if is_ready and getattr(wrapper, "batch_sampler", None) is process_sampler:  # these rows are this process's already
        wrapper.num_processes, wrapper.process_index = 1, 0
    return make_sharded_loader(loader)
