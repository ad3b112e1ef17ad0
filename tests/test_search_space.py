"""A search whose values change between two calls goes on; one that an earlier call left broken goes on too."""

from pathlib import Path

import optuna
import pytest
from experiment_runner import World
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from lexalign.artifacts.result import Result, write_result
from lexalign.errors import ConfigError
from lexalign.sweeps import fingerprint, run, search
from lexalign.sweeps.display import Display
from lexalign.sweeps.ledger import Job
from lexalign.sweeps.points import parse_request
from lexalign.sweeps.slots import Slot
from lexalign.sweeps.study import StudySource

FIXED = ("stage=sft", "tracking=none", "sweep=optuna", "sweep.sampler=random")
RATE = "train.learning_rate"


def search_on(folder: Path, *words: str, jobs_run: int | None = None, score: str = "perplexity") -> list[Job]:
    """One call of a search in this process. Its jobs do not train: each leaves a result whose perplexity is its learning rate. After
    `jobs_run` of them the call is killed while the next one runs. Returns the points of the call."""
    typed = [*FIXED, f"sweep.objectives=[{score}]", f"store={folder.parent}/store", *words]
    request = parse_request(typed)
    settings, first = fingerprint.read_sweep_settings(request)
    with run.open_plan(request, settings, folder, command=["-m", *typed]) as plan:
        source = StudySource(plan, Display(lambda: None), seed=0, score=["perplexity"])
        count = 0
        while (job := source.take_job()) is not None:
            source.make_task(job, Slot(1, None))
            job.state, job.attempts = "running", job.attempts + 1
            source.note_start(job)
            if count == jobs_run:
                break
            value = float(job.values.get(RATE, job.values.get("adapter.rank", "0")))
            metrics = {"before": {}, "after": {"perplexity": value}}
            write_result(Path(job.folder), Result(status="finished", stage="sft", key=job.key, metrics=metrics))
            source.note_end(job, 0)
            count += 1
        return plan.list_points()


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials of the study that goes on."""
    storage = search.open_storage(folder / search.FILE)
    last = storage.get_all_studies()[-1].study_name
    return optuna.load_study(study_name=last, storage=storage).trials


def test_a_value_is_added_to_a_list_and_taken_from_it(tmp_path, capsys):
    folder = tmp_path / "sweep"
    search_on(folder, "adapter.rank=4,8", "sweep.trials=2")
    before = trials_of(folder)
    search_on(folder, "adapter.rank=4,8,16", "sweep.trials=6")
    after = trials_of(folder)
    assert [trial.values for trial in after[:2]] == [trial.values for trial in before] and len(after) >= 3
    assert {trial.distributions["adapter.rank"] for trial in after} == {CategoricalDistribution(["4", "8", "16"])}
    assert "2 earlier points are taken over" in capsys.readouterr().err
    search_on(folder, "adapter.rank=16,32", "sweep.trials=6")
    assert all(trial.params["adapter.rank"] in ("16", "32") for trial in trials_of(folder))
    assert "lie outside of them and are left as they are" in capsys.readouterr().err
    search_on(folder, "adapter.rank=16,32", "sweep.trials=6")
    assert "values to search among have changed" not in capsys.readouterr().err, "said once, when it changed"


@pytest.mark.parametrize("words", ["interval(1e-4,1e-2)", "tag(log,interval(1e-5,1e-1))", "interval(1e-5,1e-3)"])
def test_an_interval_becomes_another_one(tmp_path, words):
    """Wider, narrower, or by its logarithm: the trials that lie in it count for what was asked for, and no more are drawn than that."""
    folder = tmp_path / "sweep"
    search_on(folder, f"{RATE}=interval(1e-4,1e-1)", "sweep.trials=4")
    jobs = search_on(folder, f"{RATE}={words}", "sweep.trials=6")
    trials = trials_of(folder)
    assert len(trials) == 6 and all(isinstance(trial.distributions[RATE], FloatDistribution) for trial in trials)
    assert sorted(trial.params[RATE] for trial in trials)[-1] <= trials[0].distributions[RATE].high
    assert {trial.value for trial in trials} >= {float(job.values[RATE]) for job in jobs if job.attempts == 1}


def test_a_list_becomes_an_interval(tmp_path):
    folder = tmp_path / "sweep"
    search_on(folder, f"{RATE}=1e-4,1e-3", "sweep.trials=2")
    search_on(folder, f"{RATE}=interval(5e-4,1e-2)", "sweep.trials=3")
    trials = trials_of(folder)
    assert len(trials) == 3 and all(5e-4 <= trial.params[RATE] <= 1e-2 for trial in trials)
    if any(trial.params[RATE] == 1e-3 for trial in trials):
        assert trials[0].params[RATE] == 1e-3, "the point that fits was taken over, not drawn again"


def test_a_job_that_was_under_way_goes_on_in_the_changed_space(tmp_path):
    folder = tmp_path / "sweep"
    search_on(folder, "adapter.rank=4,8,16,32", "sweep.trials=3", jobs_run=1)
    (under_way,) = [trial.params for trial in trials_of(folder) if trial.state == TrialState.RUNNING]
    jobs = search_on(folder, "adapter.rank=4,8,16,32,64", "sweep.trials=3")
    (job,) = [job for job in jobs if job.values["adapter.rank"] == under_way["adapter.rank"]]
    assert job.attempts == 2 and job.state == "finished"
    assert all(trial.state == TrialState.COMPLETE for trial in trials_of(folder))


def test_a_trial_without_values_is_failed_and_not_followed(tmp_path):
    """As a call that was killed, or that met a changed list before this was mended, has left it."""
    folder = tmp_path / "sweep"
    search_on(folder, "adapter.rank=4,8", "sweep.trials=1")
    storage = search.open_storage(folder / search.FILE)
    study = optuna.load_study(study_name=search.NAME, storage=storage)
    study.ask()
    jobs = search_on(folder, "adapter.rank=4,8", "sweep.trials=2")
    assert all(job.state == "finished" for job in jobs)
    assert [trial.state.name for trial in trials_of(folder) if not trial.params] == ["FAIL"]


def test_what_cannot_go_on_is_refused_before_the_journal_is_touched(tmp_path):
    folder = tmp_path / "sweep"
    search_on(folder, "adapter.rank=4,8", "sweep.trials=1")
    before = (folder / search.FILE).read_bytes()
    with pytest.raises(ConfigError, match="this sweep searches by perplexity, not by loss"):
        search_on(folder, "adapter.rank=4,8,16", "sweep.trials=2", score="loss")
    assert (folder / search.FILE).read_bytes() == before


@pytest.mark.slow
def test_as_typed(tmp_path):
    world = World(tmp_path)
    words = ("-m", "sweep=optuna", "tracking=none", "evaluate.limit=8", "evaluate.draws=0", "evaluate.samples=0", "train.max_steps=1",
             "hardware.threads=1", "preflight=skip", "output_dir=sweep")  # fmt: skip
    for trials, ranks in ((2, "4,8"), (3, "4,8,16"), (4, "4,8")):
        done = world.type(*words, f"sweep.trials={trials}", f"adapter.rank={ranks}")
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
