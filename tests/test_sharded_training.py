"""A model that two processes share out, by FSDP2 and by DeepSpeed, over gloo on the CPU (see cpu_sharding): the losses, weights and
measurements of one process, and the same bits after a kill."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import interrupted_runs
import pytest
from experiment_runner import ROOT, python_path, result_of
from interrupted_runs import Case, newest
from safetensors.torch import load_file
from test_distributed import measure_differences, words

DEEPSPEED = os.environ.get("DEEPSPEED_FOLDER", "")
"""Where DeepSpeed is, if not in the environment: being there, it is imported by all that imports transformers."""
STRATEGIES = ("fsdp", "deepspeed-2", "deepspeed-3")
MEASURED = (
    "evaluate.enabled=true",
    "evaluate.limit=6",
    "evaluate.batch_size=5",
    "evaluate.draws=0",
    "evaluate.max_new_tokens=6",
)
WORDS = {
    "fsdp": words("gdpo", "train.eval_steps=5", "evaluate.belief_samples=0", *MEASURED),
    "deepspeed-2": words("sft", "adapter.dropout=0"),
    "deepspeed-3": words("dpo", "adapter=full", *MEASURED),
}
"""Each with another method, since a run takes its time; 5 steps an epoch, but sft 6."""


def start_shared(case: Case, strategy: str) -> subprocess.Popen:
    """Begin a life of a run in two processes that share the model out."""
    begun = [sys.executable, str(ROOT / "tests" / "cpu_sharding" / "run_sharded.py"), strategy, str(case.out_dir)]
    path = python_path(ROOT / "tests" / "cpu_sharding", *filter(None, [DEEPSPEED]))
    with (case.out_dir.parent / f"{case.out_dir.name}.said").open("a") as said:
        return subprocess.Popen(
            [*begun, f"store={case.world}/store", "hardware.processes=2", *case.words],
            stdout=said,
            stderr=said,
            env={**os.environ, "PYTHONPATH": path},
        )


def finish(case: Case, strategy: str) -> Case:
    """A life of a run to its end."""
    assert start_shared(case, strategy).wait(300) == 0, case.said()[-3000:]
    return case


def killed_in_the_second_epoch(case: Case, strategy: str) -> None:
    """A life that ends there, and all its processes with it."""
    life, began = start_shared(case, strategy), time.monotonic()
    while newest(case.out_dir) < 8 and time.monotonic() < began + 200:
        assert life.poll() is None, case.said()[-3000:]
        time.sleep(0.01)
    life.send_signal(signal.SIGKILL)
    life.wait()


def need(strategy: str) -> None:
    """Skip what needs DeepSpeed where there is none."""
    if strategy.startswith("deepspeed") and not DEEPSPEED and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("no DeepSpeed")
    interrupted_runs.warm_up()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_trains_as_one_process_does(tmp_path, strategy):
    need(strategy)
    alone = Case(tmp_path / "a", tmp_path / "one", WORDS[strategy]).whole()
    whole = finish(Case(tmp_path / "b", tmp_path / "whole", WORDS[strategy]), strategy)
    found = measure_differences(alone, whole)
    assert found["loss"] <= 1e-5 and found["grad_norm"] <= 1e-4 and found.get("eval_loss", 0) <= 1e-5
    one, two = (load_file(*(case.out_dir / "artifact").glob("*.safetensors")) for case in (alone, whole))
    assert one.keys() == two.keys() and max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-3
    measured, other = (result_of(case.out_dir)["metrics"] for case in (alone, whole))
    for when in ("before", "after"):
        assert measured[when].keys() == other[when].keys() and (strategy == "deepspeed-2" or measured[when])
        assert all(abs(value - other[when][name]) <= 1e-3 * max(1, abs(value)) for name, value in measured[when].items())


@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=pytest.mark.slow if name == "fsdp" else pytest.mark.soak) for name in STRATEGIES]
)
def test_it_goes_on_after_a_kill_and_no_run_of_whole_models_does(tmp_path, strategy):
    need(strategy)
    words_measuring_nothing = tuple(word for word in WORDS[strategy] if not word.startswith("evaluate"))
    whole = finish(Case(tmp_path, tmp_path / "whole", (*words_measuring_nothing, "evaluate=false")), strategy)
    run = Case(tmp_path, tmp_path / "run", whole.words)
    killed_in_the_second_epoch(run, strategy)
    time.sleep(2)  # its processes see that it is gone
    assert run.end(run.start()) == 2
    said = "was saved in parts by hardware=" + strategy.partition("-")[0]
    assert said in run.said() and "and a run of whole models does not read that; type hardware=" in run.said()
    finish(run, strategy)
    assert "Going on from" in run.said() and run.weights() == whole.weights() and run.course() == whole.course()
