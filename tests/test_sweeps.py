"""A sweep as a user types it: what breaks, what is killed, what runs again and what does not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from experiment_runner import ROOT, World, python_path, result_of

from lexalign.artifacts import lock
from lexalign.sweeps.ledger import Job, Ledger

QUICK = (
    "stage=sft", "tracking=none", "train.max_steps=2", "data.limit=16", "evaluate.limit=4", "evaluate.samples=0",
    "evaluate.max_new_tokens=2", "preflight=skip", "hardware.threads=1", "train.max_length=96",
)  # fmt: skip
HOW = ("exception", "SIGKILL", "segfault", "memory")
SEEDS = 32


def jobs_of(folder: Path) -> list[Job]:
    """The points of a sweep."""
    with Ledger(folder) as ledger:
        return [job for job in ledger.read_jobs() if job.number is not None]


def losses(jobs: list[Job]) -> list[float]:
    """What was measured of each job."""
    return [job.metrics["perplexity"] for job in jobs]


@pytest.fixture(scope="module")
def thirty_two(tmp_path_factory):
    """32 jobs of which 8 break; typed three times; and the same without anything that breaks. Its world, and what was printed each time."""
    world = World(tmp_path_factory.mktemp("thirty-two"))
    broken = world.folder / "broken"
    broken.mkdir()
    for number, seed in enumerate(random.Random(0).sample(range(SEEDS), 8)):
        (broken / str(seed)).write_text(HOW[number % 4])
    env = {"PYTHONPATH": python_path(ROOT / "tests"), "BROKEN": str(broken)}
    words = (
        "-m",
        *QUICK,
        f"sweep.seeds={SEEDS}",
        "sweep.jobs=2",
        "extensions=[failing_trainer]",
        "method._target_=failing_trainer.FailingTrainer",
    )
    calls = [world.type(*words, "output_dir=sweep", "store=store", env=env) for _ in range(3)]
    clean = world.type(*words, "output_dir=clean", "store=other", env=env)
    return world, calls, clean


@pytest.mark.slow
def test_twenty_four_of_thirty_two_finish(thirty_two):
    _, (first, _, _), _ = thirty_two
    assert first.returncode == 1, first.stderr[-3000:]
    assert "24 finished, 8 failed" in first.stderr
    for reason in ("this one was to fail", "killed by SIGKILL (out of memory, perhaps)", "killed by SIGSEGV", "needs 90 GB, there are 24"):
        assert first.stderr.count(reason) == 4, reason  # two jobs each: as it ends, and in the summary


@pytest.mark.slow
def test_second_call_runs_the_eight(thirty_two):
    world, (_, second, third), clean = thirty_two
    assert second.returncode == third.returncode == clean.returncode == 0, second.stderr[-3000:] + clean.stderr[-3000:]
    assert "24 finished before, 8 to run" in second.stderr and "32 finished before, 0 to run" in third.stderr
    jobs = jobs_of(world.folder / "sweep")
    assert sorted(job.attempts for job in jobs) == [1] * 24 + [2] * 8
    assert [job.state for job in jobs] == ["finished"] * SEEDS


@pytest.mark.slow
def test_scores_are_those_of_a_clean_sweep(thirty_two):
    world, _, _ = thirty_two
    broken, clean = (jobs_of(world.folder / name) for name in ("sweep", "clean"))
    assert losses(broken) == losses(clean) and len(set(losses(clean))) == SEEDS
    assert [job.score for job in broken] == [job.score for job in clean]


@pytest.mark.slow
def test_traceback_is_in_the_failed_job_s_own_log(thirty_two):
    world, (first, _, _), _ = thirty_two
    logs = [folder / "run.log" for folder in (world.folder / "sweep").iterdir() if folder.is_dir()]
    assert sum("RuntimeError: this one was to fail" in log.read_text() for log in logs) == 2
    assert "Traceback" not in first.stderr


@pytest.mark.slow
def test_segfault_shows_where(thirty_two):
    world, _, _ = thirty_two
    outs = [folder / "job.out" for folder in (world.folder / "sweep").iterdir() if folder.is_dir()]
    assert sum("in read_nothing" in out.read_text() for out in outs) == 2


def begun(world: World, *words: str) -> subprocess.Popen[str]:
    """A sweep in the background, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words], cwd=world.folder, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def gone(folder: Path) -> bool:
    """Whether nothing runs in a sweep's folder any more."""
    return not any(lock.is_alive(job) for job in folder.iterdir() if job.is_dir())


@pytest.mark.slow
@pytest.mark.parametrize("kills", [20])
def test_parent_killed_at_any_moment_loses_no_finished_job(tmp_path, kills):
    """The sweep's process is killed again and again; the same line goes on each time, and no job that was done is done again."""
    world, chance = World(tmp_path), random.Random(1)
    points = 2 * kills
    words = ("-m", *QUICK, f"seed=range(0,{points})", "sweep.jobs=2", "output_dir=sweep", "store=store", "train.save_steps=1")
    finished: dict[str, tuple[int, float]] = {}

    def mark(job: Job) -> tuple[int, float]:
        return job.attempts, Path(job.folder, "result.json").stat().st_mtime

    for _ in range(kills):
        process = begun(world, *words)
        time.sleep(chance.uniform(1.0, 8.0))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=120)  # ends once its jobs have, which saw that it is gone
        if not (tmp_path / "sweep/ledger.sqlite").is_file():
            continue
        for job in jobs_of(tmp_path / "sweep"):
            if job.key in finished:
                assert job.state == "finished" and mark(job) == finished[job.key]
            elif job.state == "finished":
                finished[job.key] = mark(job)
    done = world.type(*words)
    assert done.returncode == 0 and f"{points} finished" in done.stderr, done.stderr[-3000:]
    assert all(mark(job) == finished.get(job.key, mark(job)) for job in jobs_of(tmp_path / "sweep"))
    clean = world.type(*(word for word in words if not word.startswith(("output_dir", "store"))), "output_dir=clean", "store=other")
    assert clean.returncode == 0
    assert losses(jobs_of(tmp_path / "sweep")) == losses(jobs_of(tmp_path / "clean"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)])
def test_a_signal_stops_all_and_the_next_call_goes_on(tmp_path, number, code):
    world = World(tmp_path)
    few = (word for word in QUICK if "max_steps" not in word)
    words = ("-m", *few, "train.max_steps=24", "train.log_steps=1", "seed=0,1,2", "sweep.jobs=2", "output_dir=sweep")
    process = begun(world, *words)
    while len(list(tmp_path.glob("sweep/*/metrics.jsonl"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert [job.state for job in jobs_of(tmp_path / "sweep")] == ["interrupted", "interrupted", "waiting"]
    assert gone(tmp_path / "sweep")
    assert len(list(tmp_path.glob("sweep/*/checkpoints/checkpoint-*"))) == 2
    again = world.type(*words)
    assert again.returncode == 0 and "3 finished" in again.stderr, again.stderr[-3000:]
    assert sum("Going on from" in (tmp_path / f"sweep/{n}/run.log").read_text() for n in range(3)) == 2


@pytest.mark.slow
def test_points_are_added_and_left(tmp_path):
    world = World(tmp_path)
    for seeds, said in (("0,1", "2 points, 0 finished before, 2 to run"), ("1,2", "2 points, 1 finished before, 1 to run")):
        done = world.type("-m", *QUICK, f"seed={seeds}")
        assert done.returncode == 0 and said in done.stderr, done.stderr[-3000:]
    (folder,) = (tmp_path / "multirun/sweeps").iterdir()
    assert [job.values for job in jobs_of(folder)] == [{"seed": "0"}, {"seed": "1"}, {"seed": "2"}]
    fresh = world.type("-m", *QUICK, "seed=1,2", "sweep.fresh=true")
    assert fresh.returncode == 0 and "2 points, 0 finished before, 2 to run" in fresh.stderr
    other = world.type("-m", *QUICK, "seed=2", "train.weight_decay=0.0,0.1")
    assert other.returncode == 0, other.stderr[-3000:]
    assert "points run before, elsewhere, and reused: 1" in other.stderr


@pytest.mark.slow
def test_a_parent_runs_once_and_its_failure_is_said_once(tmp_path):
    world = World(tmp_path)
    words = (
        "-m", "stage=align", "method=dpo", "tracking=none", "train.max_steps=2", "data.limit=16", "evaluate.limit=4", "seed=0,1,2",
        "evaluate.samples=0", "preflight=skip", "hardware.threads=1", "train.max_length=128", "store=store", "output_dir=sweep",
    )  # fmt: skip
    good = "['train.max_steps=2','evaluate.enabled=false','preflight=skip','data.limit=16']"
    bad = good.replace("data.limit=16", "adapter.target_modules=[nonsense]")
    failed = world.type(*words[:-1], "output_dir=bad", f"model.parent_overrides={bad}")
    assert failed.returncode == 1 and failed.stderr.count("starts") == 1, failed.stderr[-3000:]
    assert "no linear layer 'nonsense'" in failed.stderr
    assert [job.state for job in jobs_of(tmp_path / "bad")] == ["failed"] * 3
    done = world.type(*words, f"model.parent_overrides={good}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("parent experiment=tiny/sft starts") == 1
    logs = [(tmp_path / "sweep" / str(number) / "run.log").read_text() for number in range(3)]
    assert all("reusing" in log for log in logs)


def test_retry_none_leaves_the_failed(tmp_path):
    world = World(tmp_path)
    words = ("-m", *QUICK, "adapter.target_modules=[q_proj],[nonsense]", "output_dir=sweep")
    assert world.type(*words).returncode == 1
    done = world.type(*words, "sweep.retry=none")
    assert done.returncode == 1 and "0 to run" in done.stderr and "failed points that are left as they are: 1" in done.stderr


def test_another_sweep_in_the_folder_is_refused(tmp_path):
    world = World(tmp_path)
    words = ("dry_run=true", "output_dir=sweep")
    assert world.type("-m", *QUICK, "seed=0", *words).returncode == 0
    other = world.type("-m", *QUICK, "train.epochs=1,2", *words)
    assert other.returncode == 2 and "holds another sweep" in other.stderr and "seed=0" in other.stderr


def test_two_at_once_in_one_folder_are_refused(tmp_path):
    world = World(tmp_path)
    words = ("-m", *QUICK, "seed=0,1", "output_dir=sweep")
    process = begun(world, *words)
    while not (tmp_path / "sweep/.lock").exists():
        time.sleep(0.02)
    second = world.type(*words)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert second.returncode == 7 and f"process {process.pid}" in second.stderr


def test_points_that_are_one_experiment_run_once(tmp_path):
    done = World(tmp_path).type("-m", *QUICK, "train.log_steps=1,2", "output_dir=sweep")
    assert done.returncode == 0 and "points that are the same experiment as another: 1" in done.stderr
    assert result_of(tmp_path / "sweep/0")["status"] == "finished" and not (tmp_path / "sweep/1").exists()


def test_a_job_takes_its_share_of_the_threads(tmp_path):
    words = [word for word in QUICK if not word.startswith("hardware")]
    done = World(tmp_path).type("-m", *words, "seed=0,1", "output_dir=sweep", "sweep.jobs=2")
    assert done.returncode == 0
    manifest = json.loads((tmp_path / "sweep/0/artifact/manifest.json").read_text())
    assert manifest["surroundings"]["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)


def test_a_job_waits_for_one_that_still_saves_in_its_folder(tmp_path):
    """As after a sweep that was killed: its jobs may still be at their last step when the next call starts the same ones."""
    folder = tmp_path / "sweep/0"
    folder.mkdir(parents=True)
    with lock.hold_lock(folder):
        process = begun(World(tmp_path), "-m", *QUICK, "seed=0", "output_dir=sweep")
        while not (folder / "job.out").is_file() or "still writes here" not in (folder / "job.out").read_text():
            assert process.poll() is None
            time.sleep(0.1)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and "1 finished" in said
