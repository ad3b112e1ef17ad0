"""Successive halving in rounds: the best point is found for a part of the steps, whatever is killed meanwhile."""

import json
import math
import os
import random
import signal
import time
from functools import cache
from pathlib import Path

import pytest
from experiment_runner import World, result_of
from sweep_folders import PRUNED
from test_sweeps import begun, jobs_of

from lexalign.sweeps import fingerprint, run
from lexalign.sweeps.display import Display
from lexalign.sweeps.halving import HalvingRounds
from lexalign.sweeps.ledger import Job
from lexalign.sweeps.points import parse_request

SEEDS = (0, 1, 2)
AXES = ("train.learning_rate=1e-4,1e-3,1e-2", "adapter.target_modules=[q_proj],[v_proj],auto")
LENGTH = 18


def steps(jobs: list[Job]) -> int:
    """Optimizer steps of all jobs."""
    return sum(job.steps or 0 for job in jobs)


def best(jobs: list[Job]) -> Job:
    return min((job for job in jobs if job.state == "finished"), key=lambda job: job.metrics["loss"])


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """For a seed: the folders of nine points that are run whole, and halved."""
    world = World(tmp_path_factory.mktemp("halved"))

    @cache
    def folders(seed: int) -> tuple[Path, Path]:
        for name, words in ((f"whole-{seed}", ()), (f"halving-{seed}", ("sweep.pruner=halving", "store=other"))):
            done = world.type(*PRUNED, *AXES, f"seed={seed}", f"output_dir={name}", *words)
            assert done.returncode == 0, done.stderr[-3000:]
        return world.folder / f"whole-{seed}", world.folder / f"halving-{seed}"

    return folders


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_is_found_for_a_part_of_the_steps(halved, seed):
    whole, pruned = map(jobs_of, halved(seed))
    assert steps(whole) == 9 * LENGTH
    assert steps(pruned) == 9 * 2 + 3 * 4 + 1 * 12 <= 0.4 * steps(whole)
    found = best(pruned)
    assert found.values == best(whole).values and found.metrics == best(whole).metrics, "to the bit, over two pauses"


@pytest.mark.slow
def test_what_was_pruned_says_when_and_why(halved):
    jobs = jobs_of(halved(0)[1])
    assert sorted((job.state, job.steps) for job in jobs) == [("finished", LENGTH), *[("pruned", 2)] * 6, *[("pruned", 6)] * 2]
    for job in (job for job in jobs if job.state == "pruned"):
        left = result_of(Path(job.folder))
        assert job.reason.startswith(f"at step {job.steps} of {LENGTH}: eval_loss") and job.reason.endswith(("of 9", "of 3"))
        assert left["status"] == "pruned" and left["error"] == f"Stopped: pruned {job.reason}"
        assert (Path(job.folder) / f"checkpoints/checkpoint-{job.steps}").is_dir() and not (Path(job.folder) / "artifact").exists()
    log = Path(best(jobs).folder, "run.log").read_text()
    assert "checkpoint-2" in log and "checkpoint-6" in log, "no step is taken twice"


@pytest.mark.soak
def test_killed_at_any_moment_it_comes_to_the_same(halved, tmp_path):
    world, chance = World(tmp_path), random.Random(3)
    words = (*PRUNED, *AXES, "seed=1", "output_dir=sweep", "sweep.pruner=halving", "sweep.jobs=2")
    for _ in range(5):
        process = begun(world, *words)
        time.sleep(chance.uniform(4.0, 12.0))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    done = world.type(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    clean, killed = ([(j.number, j.state, j.steps, j.metrics) for j in jobs_of(folder)] for folder in (halved(1)[1], tmp_path / "sweep"))
    assert killed == clean


@pytest.mark.slow
def test_without_a_pruner_the_pruned_run_to_their_end(halved):
    whole, pruned = halved(0)
    done = World(whole.parent).type(*PRUNED, *AXES, "seed=0", f"output_dir={pruned.name}", "store=other")
    assert done.returncode == 0 and "9 finished" in done.stderr, done.stderr[-3000:]
    assert [job.metrics["loss"] for job in jobs_of(whole)] == [job.metrics["loss"] for job in jobs_of(pruned)]


def paused(folder: Path, values: dict[str, list[float | None]], *words: str) -> dict[str, str]:
    """What becomes of jobs whose evaluations came to `values` (None: not finite), by learning rate and seed, when a round of one ends."""
    line = parse_request(["stage=sft", "tracking=none", "train.eval_steps=2", "sweep.pruner=halving", f"store={folder}/store", *words])
    settings, _ = fingerprint.read_sweep_settings(line)
    with run.open_plan(line, settings, folder / "sweep", command=words) as plan:
        jobs = plan.add(line.list_grid())
        for job in jobs:
            logged = values["/".join(job.values.values())]
            job.state, job.reason = "paused" if logged else "failed", "at step 2 of 8"
            Path(job.folder).mkdir()
            lines = [{"step": 2, "eval_loss": value} if value is not None else {"step": 2, "not_finite": ["eval_loss"]} for value in logged]
            lines.append({"step": 3, "loss": 0.0})
            Path(job.folder, "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        plan.ledger.write_jobs(jobs)
        rounds = HalvingRounds(plan, Display(lambda: None), jobs)
        together: dict[str, list[Job]] = {}
        for job in jobs:
            together.setdefault(job.values["train.learning_rate"], []).append(job)
        points = [tuple(point) for point in together.values()]
        rounds.select_survivors(points, 1)
        return {"/".join(job.values.values()): job.state for job in plan.ledger.read_jobs()}


def test_seeds_of_a_point_go_on_together(tmp_path):
    """By their mean: 0.2 has the best run, and the worse point."""
    values = {"0.1/0": [0.4], "0.1/1": [0.4], "0.2/0": [0.1], "0.2/1": [0.9]}
    found = paused(tmp_path, values, "train.learning_rate=0.1,0.2", "sweep.seeds=2")
    assert found == {"0.1/0": "paused", "0.1/1": "paused", "0.2/0": "pruned", "0.2/1": "pruned"}


def test_what_is_not_finite_comes_last_and_what_failed_is_not_judged(tmp_path):
    values = {"0.1": [None], "0.2": [2.0], "0.3": [], "0.4": [1.0]}
    found = paused(tmp_path, values, "train.learning_rate=0.1,0.2,0.3,0.4")
    assert found == {"0.1": "pruned", "0.2": "pruned", "0.3": "failed", "0.4": "paused"}


def test_more_is_better_of_an_accuracy(tmp_path):
    line = parse_request(
        ["stage=sft", "tracking=none", "seed=0,1", "sweep.pruner=halving", "sweep.prune_on=eval_accuracy", "train.eval_steps=2"]
    )
    settings, _ = fingerprint.read_sweep_settings(line)
    with run.open_plan(line, settings, tmp_path, command=[]) as plan:
        rounds, (job, _) = HalvingRounds(plan, Display(lambda: None), []), plan.add(line.list_grid())
        Path(job.folder).mkdir()
        Path(job.folder, "metrics.jsonl").write_text('{"step": 2, "eval_accuracy": 0.25}\n{"step": 4, "not_finite": ["eval_accuracy"]}\n')
        assert [rounds.read_evaluation(job, number) for number in (1, 2, 3)] == [-0.25, math.inf, None]
