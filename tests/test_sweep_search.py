"""Points that are drawn, and points that stop early, as a user types them."""

import os
import signal
import time
from pathlib import Path

import pytest
from experiment_runner import World, result_of
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from sweep_folders import PRUNED
from test_sweeps import QUICK, begun, jobs_of

from lexalign.config.loading import CONF_ONLY
from lexalign.errors import ConfigError
from lexalign.sweeps import search
from lexalign.sweeps.check import refuse_wrong
from lexalign.sweeps.points import parse_axis, parse_request

RATE = "train.learning_rate=tag(log,interval(1e-5,1e-2))"
TWO = ("hardware=ddp", "hardware.device=cpu", "hardware.processes=2", "train.batch_size=4")


def space_of(override: str):
    """The distribution that one axis becomes."""
    (found,) = search.make_space([parse_axis(OverridesParser.create().parse_override(override))]).values()
    return found


@pytest.mark.parametrize(
    ("typed", "distribution"),
    [
        ("a=1,2,x", CategoricalDistribution(["1", "2", "x"])),
        ("a=range(1,4)", CategoricalDistribution(["1", "2", "3"])),
        ("a=interval(0.1,2)", FloatDistribution(0.1, 2.0)),
        ("a=tag(log,interval(1e-5,1))", FloatDistribution(1e-5, 1.0, log=True)),
        ("a=int(interval(1,16))", IntDistribution(1, 16)),
    ],
)
def test_what_an_axis_may_hold(typed, distribution):
    assert space_of(typed) == distribution


def study_of(folder: Path):
    """A sweep's study."""
    import optuna

    return optuna.load_study(study_name=search.NAME, storage=search.open_storage(folder / search.FILE))


@pytest.mark.slow
def test_a_search_draws_and_goes_on(tmp_path):
    world = World(tmp_path)
    words = ("-m", "sweep=optuna", *QUICK, RATE, "adapter.rank=2,4", "sweep.objectives=[perplexity]", "output_dir=sweep", "sweep.jobs=1")
    first = world.type(*words, "sweep.trials=3")
    assert first.returncode == 0 and "3 finished" in first.stderr, first.stderr[-3000:]
    again = world.type(*words, "sweep.trials=3")
    assert again.returncode == 0 and "starts" not in again.stderr
    more = world.type(*words, "sweep.trials=5")
    assert more.returncode == 0 and more.stderr.count(" starts") == 2, more.stderr[-3000:]
    other = world.type(*(word for word in words if "objectives" not in word), "sweep.objectives=[exact_match]", "sweep.trials=5")
    assert other.returncode == 2 and "this sweep searches by perplexity, not by exact_match" in other.stderr
    study, jobs = study_of(tmp_path / "sweep"), jobs_of(tmp_path / "sweep")
    assert [trial.value for trial in study.trials] == [job.metrics["perplexity"] for job in jobs] and len(jobs) == 5
    assert len({job.values["train.learning_rate"] for job in jobs}) == 5
    assert study.best_value == min(job.metrics["perplexity"] for job in jobs)


@pytest.mark.slow
def test_a_failed_trial_runs_again_and_stays_one_point(tmp_path):
    """A point that fails each time takes one of the trials, however often it is tried; a new trial is drawn for a larger number."""
    words = ("-m", "sweep=optuna", "sweep.sampler=random", *QUICK, "adapter.target_modules=[q_proj],[nonsense]", "output_dir=sweep",
             "sweep.objectives=[perplexity]", "sweep.jobs=1")  # fmt: skip
    world = World(tmp_path)
    calls = [world.type(*words, "sweep.trials=6") for _ in range(2)]
    assert [call.returncode for call in calls] == [1, 1], calls[0].stderr[-3000:]
    jobs = jobs_of(tmp_path / "sweep")
    assert sorted(job.state for job in jobs) == ["failed", "finished"]
    assert {job.state: job.attempts for job in jobs}["finished"] == 1


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path):
    world = World(tmp_path)
    few = (word for word in QUICK if "max_steps" not in word)
    words = ("-m", "sweep=optuna", *few, "train.max_steps=8", RATE, "sweep.trials=3", "output_dir=sweep", "sweep.jobs=2", "sweep.seeds=2")
    process = begun(world, *words)
    while len(list(tmp_path.glob("sweep/*/metrics.jsonl"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = world.type(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    trials, jobs = study_of(tmp_path / "sweep").trials, jobs_of(tmp_path / "sweep")
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert [job.state for job in jobs] == ["finished"] * 6, "three points with two seeds each"
    assert {job.values["seed"] for job in jobs} == {"0", "1"}


def test_several_objectives(tmp_path):
    words = ("-m", "sweep=optuna", "sweep.sampler=random", *QUICK, RATE, "sweep.objectives=[perplexity,exact_match]", "sweep.trials=3")
    done = World(tmp_path).type(*words, "output_dir=sweep")
    assert done.returncode == 0, done.stderr[-3000:]
    study, jobs = study_of(tmp_path / "sweep"), jobs_of(tmp_path / "sweep")
    assert sorted(trial.values for trial in study.trials) == sorted([job.metrics["perplexity"], job.metrics["exact_match"]] for job in jobs)
    assert study.best_trials


@pytest.mark.slow
def test_an_objective_that_nothing_measures_ends_the_search(tmp_path):
    words = ("-m", "sweep=optuna", *QUICK, RATE, "sweep.objectives=[belief_jsd]", "sweep.trials=2", "output_dir=sweep", "sweep.jobs=1")
    done = World(tmp_path).type(*words)
    assert done.returncode == 2 and "belief_jsd was not measured in job 0; it has loss, perplexity" in done.stderr, done.stderr[-3000:]


@pytest.mark.slow
def test_optuna_stops_bad_points_early(tmp_path):
    done = World(tmp_path).type(*PRUNED, "train.learning_rate=3e-3,1e-3,1e-6,1e-5", "output_dir=sweep", "sweep.pruner=asha", "seed=2")
    assert done.returncode == 0, done.stderr[-3000:]
    trials, jobs = study_of(tmp_path / "sweep").trials, jobs_of(tmp_path / "sweep")
    assert {job.state for job in jobs} == {"finished", "pruned"}
    assert sorted(int(trial.last_step or 0) * 2 for trial in trials if trial.state.name == "PRUNED") == sorted(
        job.steps for job in jobs if job.state == "pruned"
    )
    for job in (job for job in jobs if job.state == "pruned"):
        assert result_of(Path(job.folder))["status"] == "pruned" and f"at step {job.steps} of 18: eval_loss" in job.reason
        assert list((Path(job.folder) / "checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=0,1", "sweep.sampler=tpe"], "type sweep.trials=20"),
        (["sweep=optuna"], "nothing varies"),
        (["seed=0,1", "sweep.trials=3"], "a grid runs every point"),
        (["method.beta=interval(0.1,1)", "stage=align"], "a grid draws nothing from an interval"),
        (["seed=0,1", "sweep.seeds=2"], "seed and sweep.seeds=2: both choose the seeds"),
        (["seed=0,1", "sweep.objectives=[score]"], "score is measured by nothing"),
        (["seed=0,1", "sweep.pruner=median"], "type train.eval_steps=10"),
        (["seed=0,1", "sweep.reduction=4"], "nothing is pruned"),
        (["seed=0,1", "train.eval_steps=2", "sweep.pruner=median", "sweep.reduction=4"], "has no use for it"),
        (["sweep=optuna", RATE, "train.eval_steps=2", "sweep.pruner=halving"], "type sweep.pruner=asha"),
        (["seed=0,1", "train.eval_steps=2", "sweep.pruner=halving", *TWO], "hardware=ddp starts several; type sweep.pruner=none"),
        (["seed=0,1", "sweep.jobs=0"], "sweep.jobs=0"),
        (["output_dir=a,b"], "output_dir: belongs to the sweep and cannot be swept"),
        (["sweep.jobs=1,2"], "sweep.jobs: belongs to the sweep"),
        (["seed=range(3,3)"], "seed=range(3,3): holds no value"),
        (["seed=0,1", "cache=show"], "leave -m out"),
        (["seed=0,1", "hydra/launcher=basic", "sweep.jobs=2"], "has a setting of its own"),
        (["seed=0,1", "hydra/sweeper=basic"], "hydra/sweeper=basic: would keep no ledger"),
        (["seed=0,1", "train.learning_rate=1e-4,fast"], "train.learning_rate=fast: expected a number"),
        (["sweep=optuna", "train.learning_rate=interval(-1,1)"], "train.learning_rate=-1.0: must be above 0"),
    ],
)
def test_wrong_lines_are_refused(words, said):
    with pytest.raises(ConfigError) as error:
        refuse_wrong(words, CONF_ONLY)
    assert said in str(error.value)


def test_a_search_checks_each_value_once():
    line = parse_request(["sweep=optuna", "seed=0,1,2", "adapter.rank=1,2,4,8", RATE])
    assert len(line.list_points_to_check()) == 3 + 4 + 2
