"""Batches of rows of near-equal length, of a fixed number of rows or of a bounded number of tokens."""

import random
from collections.abc import Iterator, Sequence

from transformers.trainer_pt_utils import BatchRebalanceSampler

POOL = 64
"""Batches whose rows are sorted together: wide enough for equal lengths, narrow enough that a batch is still a matter of chance."""


class NearEqualBatches(BatchRebalanceSampler):
    """Lists of row indices; the same batches in every epoch, their order drawn anew, all from `seed`.

    A batch holds `batch_size` rows, or with `max_tokens` as many as fit (at least one). Every row is in exactly one batch. Subclasses the
    one batch sampler that transformers' Trainer takes.
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
        """The epoch whose order the next iteration has."""
        self.epoch = epoch


def make_near_equal_batches(lengths: Sequence[int], *, batch_size: int, max_tokens: int | None, seed: int) -> Iterator[list[int]]:
    """The batches: rows shuffled, sorted by length within pools, and cut."""
    rows = list(range(len(lengths)))
    random.Random(seed).shuffle(rows)
    per_batch = batch_size if max_tokens is None else max(1, max_tokens * len(lengths) // max(1, sum(lengths)))
    for first in range(0, len(rows), POOL * per_batch):
        batch: list[int] = []
        tokens = 0
        for row in sorted(rows[first : first + POOL * per_batch], key=lambda row: lengths[row]):
            full = len(batch) == batch_size if max_tokens is None else bool(batch) and tokens + lengths[row] > max_tokens
            if full:
                yield batch
                batch, tokens = [], 0
            batch.append(row)
            tokens += lengths[row]
        if batch:
            yield batch
