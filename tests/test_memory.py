"""Gradient checkpointing where memory asks for it, said aloud, and the worst batch tried without a trace."""

import json

import pytest
import torch
from experiment_runner import World

from lexalign.errors import OutOfMemory
from lexalign.training import memory
from lexalign.training.memory import ModelSizes
from lexalign.training.trainer import MethodTrainer

COMMON = ("train.max_steps=3", "train.log_steps=1", "evaluate.enabled=false", "hardware.threads=1", "data.limit=24")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("memory"))


def log_of(folder):
    return (folder / "run.log").read_text()


def losses(folder):
    return [json.loads(line).get("loss") for line in (folder / "metrics.jsonl").read_text().splitlines()]


METHODS = [("stage=sft",), ("stage=align", "model=tiny"), ("stage=align", "method=gdpo", "model=tiny")]


@pytest.mark.parametrize("method", METHODS)
def test_scarce_memory_switches_it_on_and_trying_leaves_no_trace(world, method, monkeypatch):
    _, plenty = world.run(*method, *COMMON, "preflight=skip")
    assert "gradient checkpointing off (train.gradient_checkpointing=auto)" in log_of(plenty) and "Tried" not in log_of(plenty)
    monkeypatch.setattr(memory, "get_free_memory", lambda experiment: 9e6)
    _, scarce = world.run(*method, *COMMON)
    assert "gradient checkpointing on (train.gradient_checkpointing=auto)" in log_of(scarce)
    assert "Tried: forward and backward took" in log_of(scarce)
    assert len([x for x in losses(plenty) if x]) == 3
    assert [x for x in losses(scarce) if x] == pytest.approx([x for x in losses(plenty) if x], abs=1e-6)


def test_the_choice_of_the_user_is_kept(world, monkeypatch):
    _, on = world.run("stage=sft", *COMMON, "train.gradient_checkpointing=true")
    assert "gradient checkpointing on (train.gradient_checkpointing=true)" in log_of(on)
    monkeypatch.setattr(memory, "get_free_memory", lambda experiment: 9e6)
    _, off = world.run("stage=sft", *COMMON, "train.gradient_checkpointing=false")
    assert "gradient checkpointing off (train.gradient_checkpointing=false)" in log_of(off)


def test_a_run_alike_knows_that_a_batch_fits_with_it_only(tmp_path, monkeypatch):
    """The estimate is comfortable, and yet the first try runs out of memory; a run alike switches it on without one."""
    tries, tried, switched, switch_on = [], memory.try_step, [], memory.enable_gradient_checkpointing

    def first_fails(*args, **kwargs):
        tries.append(kwargs)
        return None if len(tries) == 1 else tried(*args, **kwargs)

    monkeypatch.setattr(memory, "try_step", first_fails)
    monkeypatch.setattr(memory, "enable_gradient_checkpointing", lambda trainer: switched.append(id(trainer)) or switch_on(trainer))
    logs = [log_of(World(tmp_path).run("stage=sft", *COMMON, *other)[1]) for other in ((), ("seed=1",))]
    assert tries == [{"checkpointing": False}, {"checkpointing": True}]
    assert len(set(switched)) == 2
    assert "Tried: it does not fit; gradient checkpointing on" in logs[0] and "Tried: by a run alike" in logs[1]
    assert all("That batch fits with gradient checkpointing only; it is on" in log for log in logs)


def test_what_does_not_fit_is_refused_with_what_to_type(world, monkeypatch):
    """The worst batch runs out of memory, with gradient checkpointing too."""

    def no_room(self, *args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(memory, "get_free_memory", lambda experiment: 9e6)
    monkeypatch.setattr(MethodTrainer, "compute_loss", no_room)
    with pytest.raises(
        OutOfMemory, match=r"a batch of [\d,]+ tokens does not fit into 0.0 GB; type a smaller train.batch_size \(now 16\)"
    ) as error:
        world.run("stage=sft", *COMMON)
    assert error.value.exit_code == 3 and "train.gradient_checkpointing=true" not in str(error.value), "it was tried with it already"


def test_the_worst_batch_is_the_longest_that_can_come_up(world):
    class Trainer:
        train_dataset = {"size": [3, 9, 1, 7]}

        class args:
            per_device_train_batch_size = 2

        def make_train_sampler(self):
            return self.sampler

    trainer = Trainer()
    trainer.sampler = None
    assert sorted(memory.find_worst_batch(trainer, None)) == [1, 3]
    trainer.sampler = type("Batches", (), {"batches": [[0, 2], [3], [1]]})()
    assert memory.find_worst_batch(trainer, None) == [1]


def test_estimates_grow_with_what_they_are_of(world):
    from lexalign.config.compose import compose

    experiment = compose(["stage=sft", "tracking=none"]).experiment
    small, large = (ModelSizes(total=size, trained=10**5, layers=4, hidden=64, vocabulary=1000) for size in (10**6, 10**7))
    assert memory.estimate_memory(experiment, small, 1000, checkpointing=False) < memory.estimate_memory(
        experiment, large, 1000, checkpointing=False
    )
    assert memory.estimate_memory(experiment, small, 1000, checkpointing=True) < memory.estimate_memory(
        experiment, small, 1000, checkpointing=False
    )
    assert memory.estimate_memory(experiment, small, 1000, checkpointing=False) < memory.estimate_memory(
        experiment, small, 2000, checkpointing=False
    )


def test_out_of_memory_while_training(tmp_path, monkeypatch):
    """The third step asks for more memory than any machine has."""
    step = MethodTrainer.training_step

    def greedy(self, *args, **kwargs):
        if self.state.global_step == 2:
            torch.empty(1 << 50)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(MethodTrainer, "training_step", greedy)
    words = ("data.limit=16", "train.batch_size=2", "train.max_steps=4", "train.save_steps=1", "train.keep_checkpoints=9", "evaluate=false")
    said = r"step 3: out of memory \(.*can't allocate memory.*type a smaller train.batch_size \(now 2\)"
    with pytest.raises(OutOfMemory, match=said) as error:
        World(tmp_path).run(*words, out_dir=tmp_path / "run")
    assert error.value.exit_code == 3
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["checkpoint-1", "checkpoint-2"]
