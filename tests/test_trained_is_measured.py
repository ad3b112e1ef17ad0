"""What a run trains is what it measures: the trainer's own numbers of the held-out rows are those of the measurement, with a template that
writes a reasoning block in front of every answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from data_files import write
from experiment_runner import World
from families import save_family

COMMON = ("train.max_steps=4", "train.eval_steps=4", "train.batch_size=4", "train.learning_rate=1e-3", "evaluate.draws=0",
          "evaluate.samples=0", "data.eval_fraction=0.3", "hardware.threads=1")  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("measured"))


@pytest.fixture(scope="module", params=["qwen3", "mistral", "gptoss"])
def family(request, tmp_path_factory) -> Path:
    return save_family(request.param, tmp_path_factory.mktemp("family") / request.param)


def read_last(folder: Path, name: str) -> float:
    """The last number of that name that the trainer logged."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line][-1]


def run(world: World, family: Path, table: list[dict[str, Any]], *words: str) -> tuple[Any, Path]:
    """A short run of a family on a table of rows."""
    path = write(family.parent / "rows.jsonl", "jsonl", table)
    return world.run(f"model.path={family}", f"data.path={path}", *COMMON, *words)


def test_sft_measures_the_loss_that_it_trains(world, family):
    table = [{"prompt": f"Is {n} a number?", "completion": "Yes, of course it is."} for n in range(20)]
    result, folder = run(world, family, table, "stage=sft", "method=full", "data=instructions")
    assert result.metrics["after"]["loss"] == pytest.approx(read_last(folder, "eval_loss"), rel=1e-4)


def test_conversations_are_measured_on_the_turns_that_are_trained(world, family):
    def talk(number: int) -> dict[str, Any]:
        texts = (f"Name river {number}.", "The Elbe.", "Is it long?", f"About {number} miles.")
        return {"messages": [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]}

    result, folder = run(world, family, [talk(n) for n in range(20)], "stage=sft", "method=full", "data=messages")
    assert result.metrics["after"]["loss"] == pytest.approx(read_last(folder, "eval_loss"), rel=1e-4)


def test_pairs_are_measured_as_they_are_trained(world, family):
    table = [{"prompt": f"What is {n} plus 1?", "chosen": f"It is {n + 1}.", "rejected": f"No idea, perhaps {n}."} for n in range(20)]
    result, folder = run(world, family, table, "stage=align", "model.parent=null", "method=dpo", "data=pairs")
    margin = result.metrics["after"]["reward_margin"]
    assert margin == pytest.approx(read_last(folder, "eval_rewards/margins"), rel=1e-3, abs=1e-5) and margin != 0
