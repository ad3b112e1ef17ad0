"""What runs share: entries whole or absent, found by content, bounded; a reference paid once."""

import json
import multiprocessing
import os
import re

import numpy as np
import pytest
from experiment_runner import World
from hypothesis import given
from hypothesis import strategies as st

from lexalign.artifacts import fingerprint
from lexalign.cache.cache import DIGESTS, ContentCache
from lexalign.cache.reference import FILE, PerTokenReferenceCache, SummedReferenceCache, make_row_key

COMMON = ("train.max_steps=2", "evaluate.enabled=false", "hardware.threads=1", "data.limit=16")


def shelf_at(folder, *, max_bytes=10**9):
    return ContentCache(folder, max_bytes=max_bytes)


def text(words):
    return lambda folder: (folder / "words.txt").write_text(words)


def test_an_entry_is_found_again_and_the_first_one_stays(tmp_path):
    shelf = shelf_at(tmp_path / "shelf")
    assert shelf.get("a") is None and shelf.list_names() == [] and shelf.measure_size() == 0
    shelf.put("a", text("first"))
    shelf.put("a", text("second"))
    assert (shelf.get("a") / "words.txt").read_text() == "first"
    assert shelf.list_names() == ["a"] and [path.name for path in shelf.root.iterdir()] == ["a"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "no digests", "torn digests"])
def test_a_damaged_entry_counts_as_absent_and_is_made_again(tmp_path, caplog, damage):
    shelf = shelf_at(tmp_path)
    shelf.put("a", text("whole"))
    words, digests = tmp_path / "a" / "words.txt", tmp_path / "a" / DIGESTS
    {
        "flip": lambda: words.write_text("whale"),
        "cut": lambda: words.write_text("wh"),
        "remove": words.unlink,
        "no digests": digests.unlink,
        "torn digests": lambda: digests.write_text(digests.read_text()[:9]),
    }[damage]()
    assert shelf.get("a") is None and not (tmp_path / "a").exists() and "damaged" in caplog.text
    shelf.put("a", text("whole"))
    assert shelf.get("a") is not None


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("…")
        raise KeyError("stopped")

    with pytest.raises(KeyError):
        shelf_at(tmp_path).put("a", fail)
    assert list(tmp_path.iterdir()) == []


def test_the_shelf_is_bounded_and_what_was_longest_unused_goes(tmp_path):
    shelf = shelf_at(tmp_path, max_bytes=3500)
    for at, name in enumerate("abc"):
        shelf.put(name, text("x" * 1000))
        os.utime(tmp_path / name, (at + 1, at + 1))
    shelf.get("a")  # used now, so b is the oldest
    shelf.put("d", text("x" * 1000))
    assert shelf.list_names() == ["a", "c", "d"] and shelf.measure_size() <= 3500
    shelf.put("large", text("x" * 9000))
    assert shelf.list_names() == ["large"], "the newest stays even where it is too large alone"


def write_many(root, worker):
    for at in range(20):
        shelf_at(root).put(f"entry-{at}", text(f"content {at}"))
        found = shelf_at(root).get(f"entry-{(at * 7 + worker) % (at + 1)}")
        assert found is None or (found / "words.txt").read_text().startswith("content")


def test_processes_write_and_read_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(tmp_path, worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(shelf_at(tmp_path).list_names()) == 20 and not list(tmp_path.glob(".tmp-*"))


ids = st.lists(st.integers(0, 5), max_size=5)


@given(ids, ids, ids, ids)
def test_rows_have_one_key_each(context, response, other_context, other_response):
    same = (context, response) == (other_context, other_response)
    assert (make_row_key(context, response) == make_row_key(other_context, other_response)) == same


def test_sums_come_back_to_the_bit_and_models_do_not_mix(tmp_path):
    keys = [make_row_key([1], [2]), make_row_key([1], [3])]
    store = SummedReferenceCache(shelf_at(tmp_path), "model-a")
    assert store.look_up(keys) is None
    values = [(-1.0 / 3, 1), (-7.1, 2)]
    store.add(dict(zip(keys, values, strict=True)))
    store.flush()
    assert SummedReferenceCache(shelf_at(tmp_path), "model-a").look_up(keys) == values
    assert SummedReferenceCache(shelf_at(tmp_path), "model-b").look_up(keys) is None
    (entry,) = tmp_path.rglob(FILE)
    entry.write_bytes(entry.read_bytes()[:-3])
    assert SummedReferenceCache(shelf_at(tmp_path), "model-a").look_up(keys) is None


def test_numbers_per_token_come_back_to_the_bit_whatever_their_memory(tmp_path):
    keys = [make_row_key([1], [at]) for at in range(3)]
    values = [np.random.default_rng(at).normal(size=(length, 2)).astype(np.float32).T for at, length in enumerate((3, 1, 5))]
    store = PerTokenReferenceCache(shelf_at(tmp_path), "model-a")
    store.add(dict(zip(keys, values, strict=True)))
    store.flush()
    found = PerTokenReferenceCache(shelf_at(tmp_path), "model-a").look_up(keys)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, values, strict=True))
    assert SummedReferenceCache(shelf_at(tmp_path), "model").look_up(keys) is None


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def paid(world):
    """A first dpo run, which computes its reference."""
    _, folder = world.run("stage=align", "model=tiny", *COMMON)
    computed, reused = reference_counts(folder)
    assert computed > 0 and reused == 0
    return computed


def reference_counts(folder):
    (found,) = re.findall(r"Reference log-probabilities: (\d+) responses computed, (\d+) from the store", (folder / "run.log").read_text())
    return tuple(map(int, found))


@pytest.mark.parametrize(
    "change",
    [
        "train.learning_rate=1e-3",
        "method.beta=0.7",
        "seed=3",
        "adapter.rank=2",
        "train.batch_size=16",
        "method.loss_type=ipo",
        "train.epochs=2",
    ],
)
def test_what_does_not_change_the_reference_pays_nothing(world, paid, change):
    assert reference_counts(world.run("stage=align", "model=tiny", *COMMON, change)[1]) == (0, 32)


@pytest.mark.parametrize("change", ["model.dtype=bfloat16", "adapter=qlora", "train.fast_path=false", "hardware.precision=bf16"])
def test_what_changes_the_reference_pays_again(world, paid, change):
    assert reference_counts(world.run("stage=align", "model=tiny", *COMMON, change)[1])[0] == paid


def test_new_rows_alone_are_paid_for(world, paid):
    common = [setting for setting in COMMON if not setting.startswith(("data.limit", "train.max_steps"))]
    computed, reused = reference_counts(world.run("stage=align", "model=tiny", *common, "data.limit=22", "train.max_steps=3")[1])
    assert 0 < computed <= 12 and reused == 32


def test_a_run_of_less_than_an_epoch_pays_for_the_rows_that_come_up(tmp_path):
    world, few = World(tmp_path), [setting for setting in COMMON if not setting.startswith("data.limit")]
    first, again = (world.run("stage=align", "model=tiny", *few, "train.batch_size=4")[1] for _ in range(2))
    assert "computed as the rows come up" in (first / "run.log").read_text()
    computed, _ = reference_counts(first)
    assert 16 <= computed <= 24, "two batches of four pairs, and the first four of the check at step 0"
    assert "responses computed" not in (again / "run.log").read_text(), "nothing was left to compute"


def test_full_training_pays_before_its_first_step(tmp_path):
    """Its reference is the model itself, gone after a step: nothing of the trained model may get into the store."""
    world, few = World(tmp_path), [setting for setting in COMMON if not setting.startswith("data.limit")]
    command = ("stage=align", "model=tiny", "adapter=full", "train.learning_rate=1e-2", *few, "train.batch_size=4")
    _, folder = world.run(*command)
    assert reference_counts(folder)[0] > 500
    again = World(tmp_path).run(*command)[1]  # the check at step 0 finds what is stored wanting, if it is
    assert reference_counts(again)[0] == 0


def test_the_losses_are_the_same_from_the_store(tmp_path):
    world, found = World(tmp_path), []
    for _ in range(2):
        folder = world.run("stage=align", "model=tiny", *COMMON, "train.log_steps=1")[1]
        found.append([json.loads(line).get("loss") for line in (folder / "metrics.jsonl").read_text().splitlines()])
    assert found[0] == found[1]


def test_rows_are_tokenised_once(world, paid):
    entries = sorted(path.name for path in (world.store / "tokens").iterdir())
    world.run("stage=align", "model=tiny", *COMMON, "method.beta=0.9", "seed=5")
    assert sorted(path.name for path in (world.store / "tokens").iterdir()) == entries
    world.run("stage=align", "model=tiny", *COMMON, "data.system=Answer.")
    assert len(list((world.store / "tokens").iterdir())) > len(entries)


def test_cache_show_and_clear(world, paid):
    shown = world.type("cache=show", f"store={world.store}")
    assert shown.returncode == 0 and re.search(r"reference: \d+ entries, [\d.]+ MB of at most 5,000 MB", shown.stdout)
    assert (world.store / "reference").is_dir() and not (world.folder / "multirun").exists()
    cleared = world.type("cache=clear", f"store={world.store}")
    assert "MB freed" in cleared.stdout and not (world.store / "reference").exists() and not (world.store / "tokens").exists()


def test_the_digest_of_a_large_file_is_noted_for_later_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "WORTH_A_NOTE", 10)
    file = tmp_path / "weights"
    file.write_bytes(b"x" * 100)

    def digest():
        fingerprint._digest.cache_clear()
        return fingerprint.digest_file(file)

    monkeypatch.setattr(fingerprint, "SETTLED", 0)
    true = digest()
    (note,) = (tmp_path / "cache/lexalign/digests").iterdir()
    note.write_text("remembered")
    assert digest() == "remembered", "a second process reads the note, not the file"
    os.utime(file, ns=(0, 10**15))
    assert digest() == true, "another time, another note"
    monkeypatch.setattr(fingerprint, "SETTLED", 10**18)
    file.write_bytes(b"y" * 100)  # just now: its time may stay on a further change, so nothing is noted
    before = len(list(note.parent.iterdir()))
    assert digest() != true and len(list(note.parent.iterdir())) == before
