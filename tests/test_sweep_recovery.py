"""A job's result is known by its content key; a ledger that is lost or damaged is rebuilt from the folders."""

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from experiment_runner import World

from lexalign.artifacts.files import LEDGER
from lexalign.artifacts.result import RESULT, Result, write_result
from lexalign.errors import ConfigError
from lexalign.sweeps import fingerprint, recovery, run
from lexalign.sweeps.ledger import Job, Ledger
from lexalign.sweeps.outcomes import OTHER_KEY, SILENT, absorb_outcome, begin_attempt
from lexalign.sweeps.plan import Plan
from lexalign.sweeps.points import parse_request
from lexalign.sweeps.report import gather

WORDS = ("stage=sft", "tracking=none", "train.weight_decay=0.0,0.1,0.2")


def open_points(folder: Path, *words: str) -> tuple[Plan, list[Job]]:
    """The plan of a sweep in this process, and its points."""
    typed = [*(words or WORDS), f"store={folder.parent}/store"]
    request = parse_request(typed)
    settings, _ = fingerprint.read_sweep_settings(request)
    with run.open_plan(request, settings, folder, command=["-m", *typed]) as plan:
        return plan, plan.add(request.list_grid())


@pytest.fixture
def sweep(tmp_path):
    """A sweep's folder: points 0 and 1 have finished, 2 was killed; the ledger says so."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    plan, jobs = open_points(folder)
    for job, score in zip(jobs, (0.25, 0.75, None), strict=True):
        begin_attempt(job)
        recovery.note_point(job)
        if score is not None:
            result = Result(status="finished", stage="sft", key=job.key, score=score, score_name="exact_match", seconds=3.0)
            write_result(Path(job.folder), result)
        absorb_outcome(job, 0 if score is not None else None)
    with Ledger(folder, write=True) as ledger:
        ledger.write_jobs(jobs)
    return folder


def cut(path: Path) -> None:
    """Half of the file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fill_with_garbage(path: Path) -> None:
    """As many bytes, of nothing."""
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


def overwrite_middle(path: Path) -> None:
    """A page amid the file, as a failing disk leaves it."""
    content = bytearray(path.read_bytes())
    content[4096:8192] = random.Random(1).randbytes(4096)
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def write_text_that_is_no_json(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE jobs SET metrics='{'")


def write_unknown_state(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE jobs SET state='won'")


@pytest.mark.parametrize(
    "damage", [Path.unlink, cut, fill_with_garbage, overwrite_middle, empty, write_text_that_is_no_json, write_unknown_state]
)
def test_a_lost_ledger_is_rebuilt_from_the_folders(sweep, capsys, damage: Callable[[Path], None]):
    with Ledger(sweep) as ledger:
        before = {job.key: (job.number, job.state, job.score, job.values) for job in ledger.read_jobs()}
    damage(sweep / LEDGER)
    plan, jobs = open_points(sweep)
    assert {job.key: (job.number, job.state, job.score, job.values) for job in jobs} == before
    assert [plan.must_run(job) for job in jobs] == [False, False, True]
    said = capsys.readouterr().err
    assert "is rebuilt from the jobs' folders: 2 finished, 1 interrupted" in said
    kept = list(sweep.glob(f"{LEDGER}.damaged-1"))
    assert bool(kept) == (damage not in (Path.unlink, empty)) == ("is damaged" in said)


def test_points_that_are_added_get_numbers_of_their_own(sweep):
    """Folders of points that this line does not ask for keep their numbers, also where nothing tells what they hold."""
    (sweep / "7").mkdir()
    (sweep / "7" / "config.yaml").touch()
    (sweep / "9").mkdir()
    (sweep / LEDGER).unlink()
    _, jobs = open_points(sweep, "stage=sft", "tracking=none", "train.weight_decay=0.1,0.9")
    assert [job.number for job in jobs] == [1, 8]
    with Ledger(sweep) as ledger:
        assert [job.number for job in ledger.read_jobs()] == [0, 1, 2, 8]


def test_a_folder_without_a_note_is_known_by_its_result(sweep):
    """As a sweep before there were notes has left it."""
    for number in range(3):
        (sweep / str(number) / recovery.NOTE).unlink()
    job = open_points(sweep)[1][0]
    write_result(sweep / "0", Result(status="finished", stage="sft", key=job.key, score=0.25, command=job.overrides))
    (sweep / LEDGER).unlink()
    assert [(job.number, job.state) for job in open_points(sweep)[1]] == [(0, "finished"), (2, "waiting"), (3, "waiting")]


def test_another_sweep_is_refused_though_the_ledger_is_lost(sweep):
    (sweep / LEDGER).unlink()
    with pytest.raises(ConfigError, match=r"holds another sweep .*weight_decay"):
        open_points(sweep, "stage=sft", "tracking=none", "seed=1,2")


def test_the_report_of_a_damaged_ledger_says_what_to_type(sweep):
    fill_with_garbage(sweep / LEDGER)
    with pytest.raises(ConfigError, match="type the sweep's command again, which rebuilds it"):
        Ledger(sweep)
    (sweep / LEDGER).unlink()
    with pytest.raises(ConfigError, match="is a sweep whose ledger.sqlite is lost; type the sweep's command again"):
        gather.gather_report([sweep])


@pytest.fixture
def job(tmp_path):
    """A job whose process is about to start."""
    (tmp_path / "0").mkdir()
    return Job(key="mine", number=0, overrides=[], folder=str(tmp_path / "0"))


def leave(job: Job, status: str, key: str | None = "mine", **more) -> None:
    """Write the result of a run into a job's folder."""
    write_result(Path(job.folder), Result(status=status, stage="sft", key=key, **more))


@pytest.mark.parametrize("age", [-3600, 0, 3600])
def test_a_result_of_its_key_counts_whatever_the_clocks_say(job, age):
    attempt = begin_attempt(job)
    leave(job, "finished", score=0.5)
    file = Path(job.folder) / RESULT
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime + age))
    absorb_outcome(job, 0, attempt)
    assert (job.state, job.score, job.reason) == ("finished", 0.5, None) and job.seconds >= 0


def test_finished_already_is_finished(job):
    leave(job, "finished", score=0.5)
    absorb_outcome(job, 0, begin_attempt(job))
    assert job.state == "finished"


def test_a_result_from_before_says_nothing_of_a_process_that_was_killed(job):
    for status in ("finished", "failed", "interrupted"):
        leave(job, status, error="RuntimeError: long ago")
        absorb_outcome(job, -9, begin_attempt(job))
        assert (job.state, job.reason) == ("failed", "killed by SIGKILL (out of memory, perhaps)")


def test_a_new_failure_is_told_by_its_own_reason(job):
    leave(job, "failed", error="RuntimeError: long ago")
    attempt = begin_attempt(job)
    leave(job, "failed", error="RuntimeError: just now")
    absorb_outcome(job, 1, attempt)
    assert (job.state, job.reason) == ("failed", "RuntimeError: just now")


def test_a_result_of_another_key_is_not_taken(job):
    attempt = begin_attempt(job)
    leave(job, "finished", key="other", score=0.9)
    absorb_outcome(job, 0, attempt)
    assert (job.state, job.reason, job.score) == ("failed", OTHER_KEY, None)
    absorb_outcome(job, 0, attempt, is_own=True)
    assert job.state == "finished", "a branch of a hub that was fetched in between"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"status": "finished"}', '{"status": "finished", "stage": "sft", "won": 1}', "[" * 90_000]
)
def test_a_damaged_result_is_none(job, text):
    (Path(job.folder) / RESULT).write_text(text)
    absorb_outcome(job, None)
    assert (job.state, job.reason) == ("interrupted", SILENT)


def test_a_job_whose_data_changed_since_the_plan_is_not_run_and_its_result_not_taken(tmp_path):
    """Two thirds of a sweep on half of the rows would stand beside the first third as if nothing were."""
    import lexalign

    shutil.copytree(Path(lexalign.__file__).parent / "embedded/data/tiny_sft", tmp_path / "data")
    plan, (job, *_) = open_points(
        tmp_path / "sweep", "stage=sft", "tracking=none", "data=tiny_sft", f"data.path={tmp_path}/data", "train.weight_decay=0.0,0.1"
    )
    assert not plan.has_changed_files(job)
    rows = (tmp_path / "data/train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "data/train.jsonl").write_text("".join(rows[:300]))
    assert plan.has_changed_files(job) and not plan.may_have_other_key(job)
    (tmp_path / "data/train.jsonl").unlink()
    assert plan.has_changed_files(job)


@pytest.mark.slow
def test_a_sweep_goes_on_without_its_ledger_and_with_changed_data(tmp_path):
    """As typed: the ledger is removed, and nothing runs again; the data change while jobs wait, and those are not run."""
    import lexalign

    world = World(tmp_path)
    shutil.copytree(Path(lexalign.__file__).parent / "embedded/data/tiny_sft", tmp_path / "data")
    words = ("-m", "stage=sft", "tracking=none", "train.max_steps=2", "evaluate=false", "preflight=skip", "hardware.threads=1",
             "data=tiny_sft", "data.path=data", "seed=0,1", "output_dir=sweep", "sweep.jobs=1")  # fmt: skip
    assert world.type(*words).returncode == 0
    (tmp_path / "sweep" / LEDGER).unlink()
    again = world.type(*words)
    assert again.returncode == 0 and "2 finished before, 0 to run" in again.stderr, again.stderr[-2000:]
    rows = (tmp_path / "data/train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "data/train.jsonl").write_text("".join(rows[:300]))
    other = world.type(*words)
    assert other.returncode == 0 and "2 points, 0 finished before, 2 to run" in other.stderr, other.stderr[-2000:]
