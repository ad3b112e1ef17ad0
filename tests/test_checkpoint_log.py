"""A run that goes on logs what an undisturbed one logs: steps before and after the checkpoint share a window, times are added."""

import json
import shutil

from experiment_runner import World

WORDS = (
    "stage=align", "method=dpo", "model=tiny", "train.max_steps=5", "train.log_steps=3", "train.save_steps=2", "train.keep_checkpoints=9",
    "train.learning_rate=1e-3", "train.batch_size=4", "data.limit=24", "evaluate.enabled=false", "hardware.threads=1", "preflight=skip",
)  # fmt: skip
TIMES = ("tokens_per_second", "train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos")


def read_lines(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def test_the_log_of_a_run_that_goes_on_is_that_of_a_whole_run(tmp_path):
    world = World(tmp_path)
    _, whole = world.run(*WORDS, out_dir=tmp_path / "whole")
    second = tmp_path / "second"
    shutil.copytree(whole / "checkpoints/checkpoint-2", second / "checkpoints/checkpoint-2")
    shutil.copy(whole / "reference.json", second / "reference.json")
    shutil.copy(whole / "metrics.jsonl", second / "metrics.jsonl")
    _, resumed = world.run(*WORDS, out_dir=second)
    wanted, found = read_lines(whole), read_lines(resumed)
    assert found == wanted
    assert {"loss", "entropy", "rewards/margins", "num_tokens"} <= wanted[1].keys() and "train_loss" in wanted[-1]
    last = json.loads((resumed / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["train_runtime"] > 0 and last["train_steps_per_second"] > 0
    losses = [line["loss"] for line in wanted if "loss" in line]
    assert len(losses) == 2 and losses[1] < losses[0]


def test_a_run_that_is_done_makes_no_further_step(tmp_path):
    """From the checkpoint of its last step, in the middle of an epoch."""
    world = World(tmp_path)
    words = tuple(word for word in WORDS if "max_steps" not in word)
    first, whole = world.run(*words, "train.max_steps=4", out_dir=tmp_path / "whole")
    second = tmp_path / "second"
    shutil.copytree(whole / "checkpoints/checkpoint-4", second / "checkpoints/checkpoint-4")
    resumed, _ = world.run(*words, "train.max_steps=4", out_dir=second)
    assert resumed.counts["steps"] == 4
    weights = [folder / "artifact/adapter_model.safetensors" for folder in (whole, second)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
