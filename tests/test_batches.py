"""Batches of near-equal length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexalign.training import batches
from lexalign.training.batches import NearEqualBatches

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=200)


@given(lengths, st.integers(1, 9), st.integers(0, 5))
def test_every_row_once_in_batches_of_the_size(rows, size, seed):
    sampler = NearEqualBatches(rows, batch_size=size, max_tokens=None, seed=seed)
    found = list(sampler)
    assert sorted(row for batch in found for row in batch) == list(range(len(rows)))
    assert len(found) == len(sampler) and max(map(len, found)) <= size


@given(lengths, st.integers(50, 300), st.integers(0, 5))
def test_every_row_once_within_the_token_budget(rows, budget, seed):
    found = list(NearEqualBatches(rows, batch_size=1, max_tokens=budget, seed=seed))
    assert sorted(row for batch in found for row in batch) == list(range(len(rows)))
    assert all(sum(rows[row] for row in batch) <= budget for batch in found)


@given(lengths, st.integers(0, 5))
def test_same_seed_same_batches_other_epoch_other_order(rows, seed):
    first, second = (NearEqualBatches(rows, batch_size=4, max_tokens=None, seed=seed) for _ in range(2))
    assert list(first) == list(second)
    second.set_epoch(1)
    assert sorted(map(tuple, first)) == sorted(map(tuple, second))


def test_lengths_in_a_batch_are_near_equal(monkeypatch):
    monkeypatch.setattr(batches, "POOL", 16)
    rows = [(7 * at) % 97 + 1 for at in range(640)]
    found = NearEqualBatches(rows, batch_size=8, max_tokens=None, seed=0)
    spread = [max(rows[row] for row in batch) - min(rows[row] for row in batch) for batch in found]
    assert sum(spread) / len(spread) < 10
    orders = [list(NearEqualBatches(rows, batch_size=8, max_tokens=None, seed=seed)) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_a_row_longer_than_the_budget_stands_alone():
    assert sorted(map(tuple, NearEqualBatches([9, 2, 2], batch_size=1, max_tokens=4, seed=0))) in ([(0,), (1, 2)], [(0,), (2, 1)])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_is_not_by_length(seed):
    sampler = NearEqualBatches(list(range(400)), batch_size=4, max_tokens=None, seed=seed)
    firsts = [batch[0] for batch in sampler]
    assert firsts != sorted(firsts)
