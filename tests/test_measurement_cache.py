"""The measurement before training is made once for all runs that start from one model on the same rows."""

import json

import pytest
from experiment_runner import World
from hypothesis import given
from hypothesis import strategies as st

from lexalign.cache.cache import ContentCache
from lexalign.evaluation.evaluator import Measurement
from lexalign.evaluation.intervals import RowValues
from lexalign.evaluation.measurement_cache import FILE, read_measurement, write_measurement

SHORT = ("stage=sft", "train.max_steps=2", "evaluate.limit=12", "evaluate.samples=1", "evaluate.draws=1", "evaluate.draw_prompts=2")
SAID = "its numbers are taken from the cache"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("measurements"))


def read(folder):
    """Whether the cache served a run, and what it measured before training."""
    result = json.loads((folder / "result.json").read_text())
    return SAID in (folder / "run.log").read_text(), result["metrics"]["before"], result["metrics"]["after"], result["samples"]


def test_the_second_run_of_a_model_takes_the_numbers_of_the_first(world):
    (first, before, *_), (again, served, *_) = (read(world.run(*SHORT, f"train.learning_rate={rate}")[1]) for rate in (1e-3, 2e-3))
    assert not first and again and served == before and before


def test_the_numbers_after_training_do_not_depend_on_the_cache(world):
    whole = [read(world.run(*SHORT, "seed=3")[1]) for _ in range(2)]
    assert whole[0][1:] == whole[1][1:] and whole[1][0]


@pytest.mark.parametrize("word", ["evaluate.limit=11", "evaluate.max_new_tokens=20", "data.system=Be brief.", "model.dtype=bfloat16"])
def test_what_changes_the_measurement_is_measured_again(world, word):
    world.run(*SHORT)
    words = [other for other in SHORT if other.partition("=")[0] != word.partition("=")[0]]
    assert not read(world.run(*words, word)[1])[0]


def test_a_damaged_entry_is_measured_again(world):
    _, before, *_ = read(world.run(*SHORT)[1])
    for file in (world.store / "measurements").rglob(FILE):
        file.write_text(file.read_text().replace("0", "1"))
    served, again, *_ = read(world.run(*SHORT)[1])
    assert not served and again == before


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(
    rows=st.dictionaries(st.text(max_size=5), st.lists(NUMBERS, max_size=4), max_size=3),
    pairs=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4),
    drawn=st.dictionaries(st.tuples(st.text(max_size=5), st.text(max_size=5)), st.lists(st.lists(st.integers(0, 99))), max_size=3),
    answers=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_a_measurement_comes_back_to_the_bit(tmp_path_factory, rows, pairs, drawn, answers):
    measurement = Measurement(
        rows={name: RowValues(values=values, exponential=True) for name, values in rows.items()},
        answers=answers,
        drawn=drawn,
        pair_log_probs=pairs,
        row_log_probs=[number for pair in pairs for number in pair],
        counts={"seen": len(pairs)},
    )
    cache = ContentCache(tmp_path_factory.mktemp("cache"), max_bytes=10**9)
    write_measurement(cache, "key", measurement)
    assert read_measurement(cache.get("key") / FILE) == measurement


def test_a_file_that_is_no_measurement_is_none(tmp_path):
    for number, text in enumerate(("", "{", "[]", '{"rows": {"a": {}}}')):
        path = tmp_path / str(number)
        path.write_text(text)
        assert read_measurement(path) is None
