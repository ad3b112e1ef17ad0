"""Several processes on one run: the same losses in the same order, one artifact, and an end that all of them share."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import interrupted_runs
import psutil
import pytest
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader, skip_first_batches
from experiment_runner import ROOT, python_path, result_of
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted_runs import Case, newest, words_of
from safetensors.torch import load_file
from torch.utils.data import BatchSampler, DataLoader
from transformers import AutoConfig

import lexalign
from lexalign.artifacts.manifest import find_damage
from lexalign.config import hardware
from lexalign.config.compose import compose
from lexalign.distributed import collectives
from lexalign.distributed.sampler import ShardedBatches, make_sharded_loader, shard_batch
from lexalign.runs import auto_strategy
from lexalign.training.batches import NearEqualBatches

TWO = ("hardware=ddp", "hardware.device=cpu", "hardware.processes=2")
ODD = ("data.limit=23", "train.epochs=4", "train.save_steps=5")
"""23 rows in batches of 4: the last of an epoch has 3, which two processes cannot share evenly."""


def words(method: str, *more: str) -> tuple[str, ...]:
    """A case's command line; of a setting named twice, the later one."""
    return tuple({word.split("=", 1)[0]: word for word in (*words_of(method, "step"), *more)}.values())


NOT_HELD = ("num_tokens", "total_flos", "rewards/accuracies", "nll_loss", "logits/chosen", "logits/rejected")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    interrupted_runs.warm_up()
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder):
    """An undisturbed run of two processes."""
    return Case(folder, folder / "two", words("sft", *TWO, "adapter.dropout=0", *ODD)).whole()


@given(st.lists(st.integers(), min_size=1, max_size=40), st.integers(1, 9))
def test_a_batch_is_shared_out_evenly(batch, of):
    rows = list(range(len(batch)))
    parts = [shard_batch(rows, number=number, count=of) for number in range(of)]
    assert len({len(part) for part in parts}) == 1, "a collective operation wants the same shape of all"
    counts = Counter(row for part in parts for row in part)
    assert set(counts) == set(rows) and len(set(counts.values())) == 1, "so that the mean over processes is the mean over rows"
    if len(rows) % of == 0:
        assert [row for part in parts for row in part] == rows


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9))
def test_work_in_step_is_all_of_it_in_as_many_steps_for_each(items, of):
    parts = []
    for number in range(of):
        with mock.patch.object(collectives, "world_size", lambda: of), mock.patch.object(collectives, "rank", lambda number=number: number):
            parts.append(collectives.shard_in_step(items))
    assert {len(part) for part in parts} == {-(-len(items) // of)}
    assert set().union(*parts) == set(items) and sum(map(len, parts)) < len(items) + of


@settings(deadline=None)  # the first example imports
@given(st.integers(9, 60), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.data())
def test_a_resumed_epoch_has_the_batches_that_were_left(rows, size, epoch, near_equal, data):
    """As transformers' loop asks accelerate's loader for them."""
    whole = list(told(loader(rows, 2 * size, near_equal), epoch))
    done = data.draw(st.integers(0, len(whole) - 1))
    if rows > 30 and not near_equal:
        assert whole != list(told(loader(rows, 2 * size, near_equal), 0)), "each epoch has an order of its own"
    fresh = loader(rows, 2 * size, near_equal)
    assert list(told(skip_first_batches(fresh, done) if done else fresh, epoch)) == whole[done:]


def loader(rows: int, size: int, near_equal: bool) -> Any:
    """The batches of the first of two processes, wrapped as transformers' Trainer has accelerate wrap them."""
    chosen = range(rows)
    drawn = NearEqualBatches([row % 7 for row in chosen], batch_size=size, max_tokens=None, seed=1) if near_equal else None
    batches = drawn or BatchSampler(SeedableRandomSampler(chosen, data_seed=1), size, drop_last=False)
    plain = DataLoader(chosen, batch_sampler=ShardedBatches(batches, number=0, count=2), collate_fn=list)
    prepared = prepare_data_loader(plain, num_processes=2, process_index=0, put_on_device=False, use_seedable_sampler=True, data_seed=1)
    prepared.batch_sampler.num_processes = 1
    return make_sharded_loader(prepared)


def told(batches: Any, epoch: int) -> Any:
    """A loader that was told its epoch, by both ways that the loop has."""
    batches.set_epoch(epoch)
    inner = getattr(batches.batch_sampler, "batch_sampler", None)
    if hasattr(inner, "set_epoch"):
        inner.set_epoch(epoch)
    return batches


def measure_differences(one: Case, other: Case) -> dict[str, float]:
    """The largest difference of each logged number, over all steps; both log the same steps."""
    first, second = one.course(), other.course()
    assert [line["step"] for line in first] == [line["step"] for line in second]
    found: dict[str, float] = {}
    for line, twin in zip(first, second, strict=True):
        for name in line.keys() & twin.keys():
            found[name] = max(found.get(name, 0.0), abs(line[name] - twin[name]) / max(1.0, abs(line[name])))
    return found


def equal(one: Case, other: Case) -> None:
    """Losses within 1e-5 at every step, gradients and measures within 1e-4. Not held: counts of tokens, which are of what was computed (an
    epoch's odd rows more than once), whether a margin that is 0 but for rounding is above it, and TRL's means over a process's tokens."""
    found = measure_differences(one, other)
    assert len(one.course()) > 20 and {"loss", "grad_norm"} <= found.keys() and found["loss"] <= 1e-5
    assert {name: value for name, value in found.items() if name.removeprefix("eval_") not in NOT_HELD and value > 1e-4} == {}


def test_one_process_and_two_give_the_same_losses(folder, two):
    equal(Case(folder, folder / "one", words("sft", "adapter.dropout=0", *ODD)).whole(), two)
    assert sorted(path.name for path in two.out_dir.iterdir() if path.name.startswith("run")) == ["run.log", "run.rank1.log"]
    assert result_of(two.out_dir)["status"] == "finished" and not list(two.out_dir.rglob(".tmp-*"))


def compared(tmp_path: Path, method: str, more: tuple[str, ...]) -> None:
    """Run a case in one process and in two, each with a store of its own, which knows nothing of the reference; hold them together."""
    alone = Case(tmp_path / "a", tmp_path / "one", words(method, *ODD, *more)).whole()
    shared = Case(tmp_path / "b", tmp_path / "two", words(method, *ODD, *more, *TWO)).whole()
    equal(alone, shared)
    paid = [re.findall(r"\d+ responses computed, \d+ from the store", case.said()) for case in (alone, shared)]
    assert paid[0] == paid[1], "each of the reference's responses is computed once, not by each process"


def named(value: Any) -> str:
    """A case in a test's name."""
    return value if isinstance(value, str) else "-".join(word.split("=")[-1] for word in value[:1]) or "plain"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("dpo", ("train.eval_steps=5", "train.group_by_length=true")),
        ("gdpo", ("train.eval_steps=5", "train.batch_size=6", "train.epochs=6")),
        ("dpo", ("method=kto", "data.limit=24")),
        ("sft", ("train.packing=true", "train.batch_size=2", "train.epochs=20", "data.limit=60", "adapter.dropout=0")),
    ],
    ids=named,
)
def test_methods_give_the_same_losses(folder, tmp_path, method, more):
    compared(tmp_path, method, more)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("dpo", ()),
        ("gdpo", ()),
        ("dpo", ("method=ipo",)),
        ("dpo", ("method=gdpo_soft", "data=tiny_soft")),
        ("dpo", ("method=cdpo_soft", "data=tiny_soft")),
        ("dpo", ("method=gdpo_flow",)),
        ("dpo", ("method=simpo",)),
        ("dpo", ("method=orpo",)),
        ("dpo", ("method=cpo",)),
        ("dpo", ("train.group_by_length=true", "train.gradient_accumulation_steps=2", "train.epochs=8")),
        ("sft", ("method=full", "adapter.dropout=null")),
        ("sft", ("adapter.dropout=0", "train.eval_steps=5")),
    ],
    ids=named,
)
def test_every_method_gives_the_same_losses(folder, tmp_path, method, more):
    compared(tmp_path, method, more)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "gdpo_rl"])
def test_answers_are_drawn_by_both(folder, tmp_path, method):
    """Each process draws answers of its own, so that the numbers are others; groups stay whole."""
    run = Case(
        folder, tmp_path / "run", words("dpo", *TWO, f"experiment=tiny/{method}", "model=tiny", "train.max_steps=3", "train.batch_size=8")
    )
    run.whole()
    assert result_of(run.out_dir)["counts"]["steps"] == 3


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes_of(run: Case) -> dict[int, psutil.Process]:
    """The processes at work on a run, by their number."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "lexalign.runs.worker" in line and str(run.out_dir) in line[-1]:
            found[int(process.environ()["RANK"])] = process
    return found


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_the_next_start_resumes(two, folder, tmp_path):
    """In its second epoch, which has an order of its own."""
    run = Case(folder, tmp_path / "run", two.words)
    life = run.training()
    while life.is_alive() and newest(run.out_dir) < 10:
        time.sleep(0.01)
    processes_of(run)[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert run.end(life) == 9 and time.monotonic() - began < 30
    assert "process 1 of 2 was killed by SIGKILL" in run.said() and not processes_of(run)
    assert run.whole().weights() == two.weights() and run.course() == two.course()


@pytest.mark.slow
def test_a_signal_stops_all_after_the_same_step(two, folder, tmp_path):
    run = Case(folder, tmp_path / "run", two.words)
    assert run.met(run.training(), signal.SIGTERM) == 143 and run.lost == [0]
    assert result_of(run.out_dir)["status"] == "interrupted"
    assert run.whole().weights() == two.weights() and run.course() == two.course()


@pytest.mark.slow
def test_the_processes_follow_the_one_that_started_them(two, folder, tmp_path):
    run = Case(folder, tmp_path / "run", two.words)
    life = run.training()
    left = processes_of(run)
    assert len(left) == 2
    assert run.met(life, signal.SIGKILL) == -signal.SIGKILL
    assert psutil.wait_procs(list(left.values()), timeout=10)[1] == []
    assert run.whole().weights() == two.weights() and run.course() == two.course()


@pytest.mark.slow
def test_another_number_of_processes_goes_on_with_the_same_rows(two, folder, tmp_path):
    run = Case(folder, tmp_path / "run", two.words)
    assert run.met(run.training(), signal.SIGTERM) == 143
    run.words = tuple(word for word in run.words if word not in TWO)
    equal(run.whole(), two)
    assert "from a checkpoint of 2" in run.said()


@pytest.mark.slow
def test_two_nodes(two, folder, tmp_path):
    """Two machines, here on one: the same command on each, with the number of the node."""
    port = free_port()
    meeting = ("hardware.processes=1", "hardware.nodes=2", f"hardware.rendezvous=127.0.0.1:{port}")
    both = [
        Case(folder, tmp_path / "run", (*words("sft", *two.words, *meeting), f"hardware.node={node}")) for node in (1, 0)
    ]  # fmt: skip
    lives = [run.start() for run in both]
    assert [run.end(life) for run, life in zip(both, lives, strict=True)] == [0, 0], both[0].said()[-3000:]
    assert both[1].weights() == two.weights() and both[1].course() == two.course()


def test_a_node_that_never_comes_is_named(folder, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        probe.listen()
        port = probe.getsockname()[1]
        more = (
            "hardware.processes=1",
            "hardware.nodes=2",
            f"hardware.rendezvous=127.0.0.1:{port}",
            "hardware.patience=3",
            "hardware.node=0",
        )
        taken = Case(folder, tmp_path / "run", words("sft", *TWO, *more))
        assert taken.end(taken.start()) == 10
        assert f"port {port} is in use on this node" in taken.said() and f"hardware.rendezvous=127.0.0.1:{port + 1}" in taken.said()
    alone = Case(folder, tmp_path / "alone", words("sft", *TWO, *more))
    assert alone.end(alone.start()) == 10
    assert "not all of the 2 nodes came within 3 s" in alone.said()
    assert not list(alone.out_dir.rglob(".tmp-*")) and not (alone.out_dir / "artifact").exists()


BROKEN = """
from lexalign.distributed import collectives
from lexalign.trainers.sft import SftObjective


class Broken(SftObjective):
    def compute(self, scores):
        if collectives.rank() == 1:
            raise ZeroDivisionError("of my own making")
        return super().compute(scores)
"""


def test_an_error_in_one_process_is_told_and_its_traceback_kept(folder, tmp_path, monkeypatch):
    (tmp_path / "mylab.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    run = Case(folder, tmp_path / "run", words("sft", *TWO, "extensions=[mylab]", "method._target_=mylab.Broken"))
    assert run.end(run.start()) == 9
    assert "process 1: ZeroDivisionError: of my own making (its traceback is in run.rank1.log)" in run.said()
    kept = (run.out_dir / "run.rank1.log").read_text()
    assert "Traceback" in kept and 'raise ZeroDivisionError("of my own making")' in kept


def test_bad_rows_are_refused_before_there_are_processes(folder, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    run = Case(folder, tmp_path / "run", words("sft", *TWO, f"data.path={bad}", "data.eval_split=null"))
    assert run.end(run.start()) == 2
    assert "bad.jsonl:2" in run.said() and "Starting 2 processes" not in run.said()


def test_what_torchrun_started_is_refused(tmp_path):
    said = subprocess.run(
        [sys.executable, str(ROOT / "run.py")], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "LOCAL_RANK": "0"}
    )
    assert said.returncode == 2 and "type python run.py … hardware=ddp" in said.stderr


@pytest.mark.parametrize("trained", ["adapter", "model"])
def test_a_model_held_in_parts_is_saved_whole(tmp_path, trained):
    """Native FSDP2 over gloo: accelerate offers it on GPUs only."""
    start, artifact, port = Path(lexalign.__file__).parent / "embedded" / "tiny", tmp_path / "artifact", free_port()
    words = [sys.executable, str(ROOT / "tests" / "sharded_model.py")]
    env = {**os.environ, "PYTHONPATH": python_path()}
    lives = [subprocess.Popen([*words, str(number), str(port), str(start), str(artifact), trained], env=env) for number in (0, 1)]
    assert [life.wait(120) for life in lives] == [0, 0]
    assert find_damage(artifact) is None
    (file,) = artifact.glob("*.safetensors")
    saved = load_file(file)
    if trained == "model":
        before = load_file(start / "model.safetensors")
        assert before.keys() <= saved.keys() and [name for name in before if not saved[name].equal(before[name] + 1)] == []
    else:
        assert len(saved) == 2 * AutoConfig.from_pretrained(start).num_hidden_layers
        assert all(bool((weight == 1).all()) for name, weight in saved.items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("gpus", "memory", "more", "strategy", "processes"),
    [
        (1, 80e9, (), "single", 1),
        (4, 80e9, (), "ddp", 4),
        (3, 80e9, (), "ddp", 2),
        (4, 2e6, (), "fsdp", 4),
        (4, 80e9, ("train.max_tokens=4096",), "single", 1),
        (0, 0, (), "single", 1),
    ],
)
def test_what_auto_comes_to(monkeypatch, caplog, gpus, memory, more, strategy, processes):
    """The decision alone: there is no GPU here."""
    experiment = compose(["tracking=none", "train.batch_size=8" if not more else "seed=0", *more]).experiment
    monkeypatch.setattr(hardware, "count_cuda_devices", lambda: gpus)
    monkeypatch.setattr(hardware, "get_cuda_memory", lambda: memory)
    monkeypatch.setattr(hardware, "is_torch_cpu_build", lambda: False)
    caplog.set_level("INFO", logger="lexalign")
    chosen = auto_strategy.resolve_strategy(experiment).hardware
    assert (chosen.strategy, chosen.processes) == (strategy, processes)
    if strategy != "single":
        assert f"{strategy} x {processes}: a step of at most" in caplog.text and ("left idle" in caplog.text) == (gpus == 3)
