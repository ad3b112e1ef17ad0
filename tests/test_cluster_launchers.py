"""A sweep on other launchers of Hydra's: submitit's local executor, a Ray of its own, and a Slurm where this machine has one."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from experiment_runner import ROOT, World, python_path, result_of
from test_sweeps import QUICK, begun, jobs_of

from lexalign.artifacts import lock
from lexalign.config import hardware
from lexalign.config.compose import compose
from lexalign.errors import FolderInUse, RendezvousFailed, Stopped
from lexalign.sweeps.hydra_launchers import compute_stop_after
from lexalign.training import signals

WORDS = ("-m", *QUICK, "adapter.target_modules=[q_proj],[nonsense],[v_proj]", "output_dir=sweep")
LAUNCHERS = {
    "submitit": ["hydra/launcher=submitit_local"],
    "ray": ["sweep=ray", "+hydra.launcher.ray.init.num_cpus=2", "hydra.launcher.ray.remote.num_gpus=0"],
}
SLURM = ["sweep=slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1"]
"""Small enough for any node. A cluster's partition or account: in the environment, as Slurm reads them (SBATCH_PARTITION)."""


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_its_jobs_are_in_the_ledger(tmp_path, name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; pip install 'lexalign[{'slurm' if name == 'submitit' else name}]'")
    world, env = World(tmp_path), {"RAY_USAGE_STATS_ENABLED": "0"}
    first = world.type(*WORDS, *LAUNCHERS[name], env=env)
    assert first.returncode == 1 and "3 points, 0 finished before, 3 to run" in first.stderr, first.stderr[-3000:]
    jobs = jobs_of(tmp_path / "sweep")
    assert [job.state for job in jobs] == ["finished", "failed", "finished"] and "nonsense" in jobs[1].reason
    assert [result_of(tmp_path / "sweep" / str(number))["status"] for number in range(3)] == ["finished", "failed", "finished"]
    again = world.type(*WORDS, *LAUNCHERS[name], env=env)
    assert "3 points, 2 finished before, 1 to run" in again.stderr
    assert [job.attempts for job in jobs_of(tmp_path / "sweep")] == [1, 2, 1]
    local = world.type(*WORDS)
    assert "3 points, 2 finished before, 1 to run" in local.stderr, "the ledger is the same whoever runs the jobs"


def needs(name: str) -> None:
    """Skip where a scheduler is not there. Slurm starts a job again two minutes after it was requeued."""
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("submitit is not installed; pip install 'lexalign[slurm]'")
    if name == "slurm" and (shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode != 0):
        pytest.skip("no Slurm is at hand")


@pytest.mark.slow
def test_a_job_whose_time_is_over_has_itself_run_again(tmp_path):
    needs("submitit")
    few = (word for word in QUICK if "max_steps" not in word)
    words = ("-m", *few, "train.max_steps=2", "seed=0,1")
    done = World(tmp_path).type(*words, "hydra/launcher=submitit_local", "train.stop_after=0.001", "output_dir=sweep")
    assert done.returncode == 0 and "2 finished" in done.stderr, done.stderr[-3000:]
    jobs = jobs_of(tmp_path / "sweep")
    assert [(job.state, job.steps, job.attempts) for job in jobs] == [("finished", 2, 1)] * 2
    for job in jobs:
        log = Path(job.folder, "run.log").read_text()
        assert [log.count(f"Going on from {job.folder}/checkpoints/checkpoint-{step}") for step in (1, 2)] == [1, 1], "a step each time"
    whole = World(tmp_path).type(*words, "output_dir=whole", "store=other")
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert [job.metrics for job in jobs] == [job.metrics for job in jobs_of(tmp_path / "whole")]


@pytest.mark.slow
def test_a_job_that_slurm_warns_or_takes_the_node_from_goes_on(tmp_path):
    needs("slurm")
    few = (word for word in QUICK if "max_steps" not in word)
    process = begun(World(tmp_path), "-m", *few, *SLURM, "train.max_steps=60", "train.log_steps=1", "seed=0", "output_dir=sweep")
    for command in (["scancel", "--signal=USR2"], ["scontrol", "requeue"]):
        log = tmp_path / "sweep/0/metrics.jsonl"
        seen = len(log.read_text().splitlines()) if log.is_file() else 0
        while not log.is_file() or len(log.read_text().splitlines()) < seen + 3:
            assert process.poll() is None, process.communicate()[1][-3000:]
            time.sleep(0.2)
        (pickle,) = (tmp_path / "sweep/.submitit").glob("*/*_submitted.pkl")
        subprocess.run([*command, pickle.parent.name], check=True)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0 and "1 finished" in said, said[-3000:]
    (job,) = jobs_of(tmp_path / "sweep")
    assert (job.steps, job.attempts) == (60, 1) and Path(job.folder, "run.log").read_text().count("Going on from") == 2


@pytest.mark.slow
def test_one_run_over_two_nodes(tmp_path):
    """Each node runs the same line, and they meet as Slurm says; the losses are those of one process."""
    needs("slurm")
    if len(subprocess.run(["sinfo", "-h", "-N", "-o", "%N"], capture_output=True, text=True).stdout.split()) < 2:
        pytest.skip("this Slurm has one node")
    few = (word for word in QUICK if "max_steps" not in word)
    words = ("-m", *few, "train.max_steps=4", "train.log_steps=1", "train.batch_size=4", "adapter.dropout=0", "hardware.device=cpu")
    shared = ("hardware=ddp", "hardware.processes=1", "hardware.nodes=2", *SLURM)
    done = World(tmp_path).type(*words, *shared, "seed=0", "output_dir=shared", timeout=900)
    assert done.returncode == 0 and "1 finished" in done.stderr, done.stderr[-3000:]
    assert {"run.log", "run.rank1.log", "run.node1.log"} <= {path.name for path in (tmp_path / "shared/0").iterdir()}
    alone = World(tmp_path).type(*words, "seed=0", "output_dir=alone", "store=other")
    assert alone.returncode == 0, alone.stderr[-3000:]
    for ours, theirs in zip(losses(tmp_path / "shared/0"), losses(tmp_path / "alone/0"), strict=True):
        assert abs(ours - theirs) < 1e-5


def losses(folder: Path) -> list[float]:
    """The loss of each step of a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_slurm_is_asked_where_nodes_meet_in_its_own_jobs_only(tmp_path, monkeypatch):
    chosen = compose(["hardware=ddp", "hardware.device=cpu", "hardware.processes=1", "hardware.nodes=2", "hardware.rendezvous=slurm",
                      "tracking=none", "train.batch_size=4"]).experiment.hardware  # fmt: skip
    with pytest.raises(RendezvousFailed, match="no job of Slurm's; type sweep=slurm"):
        hardware.resolve_rendezvous(chosen)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho first; echo second\n")
    (tmp_path / "scontrol").chmod(0o755)
    for name, value in (("PATH", f"{tmp_path}:{os.environ['PATH']}"), ("SLURM_JOB_ID", "123"), ("SLURM_JOB_NODELIST", "first,second")):
        monkeypatch.setenv(name, value)
    assert hardware.resolve_rendezvous(chosen) == "first:20123"


@pytest.mark.parametrize(
    ("limit", "warned", "minutes"), [(240, 5, 225), (60, 2, 54), (20, 5, 14), (4000, 0, 3985), (1, 2, 0.5), (30, 40, 15)]
)
def test_a_job_stops_before_its_time_is_over(limit, warned, minutes):
    assert compute_stop_after(limit, warned) == minutes


def test_a_scheduler_s_warning_is_heeded_in_its_jobs_only(monkeypatch):
    seen = []
    before = signal.signal(signal.SIGUSR2, lambda *_: seen.append("submitit"))
    try:
        with signals.handle_signals():
            signal.raise_signal(signal.SIGUSR2)
        assert seen == ["submitit"]
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        with pytest.raises(Stopped) as stop, signals.handle_signals():
            signal.raise_signal(signal.SIGUSR2)
        assert stop.value.status == "stopped" and seen == ["submitit"]
        signal.raise_signal(signal.SIGUSR2)
        assert seen == ["submitit"] * 2, "its own handler is there again"
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_requeued_job_takes_over_its_own_lock_only(tmp_path, monkeypatch):
    """Its first life ended on a host that this one cannot ask."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with lock.hold_lock(tmp_path):
        there = (tmp_path / lock.FILE).read_text()
    elsewhere = "\n".join(["4242", "another-host", *there.split()[2:]]) + "\n"
    for job, count, taken in (("7", "0", False), ("8", "1", False), ("7", "1", True)):
        (tmp_path / lock.FILE).write_text(elsewhere)
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        if taken:
            with lock.hold_lock(tmp_path) as left_by:
                assert left_by == "process 4242 on another-host"
                with pytest.raises(FolderInUse), lock.hold_lock(tmp_path):
                    pass
        else:
            with pytest.raises(FolderInUse, match="another-host"), lock.hold_lock(tmp_path):
                pass


@pytest.mark.slow
def test_ray_leases_the_gpus(tmp_path):
    """Ray is told of two, which it need not see to lease them; each job gets one of them and not the other's."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed; pip install 'lexalign[ray]'")
    words = (
        "-m", *QUICK, "hardware=cpu", "seed=0,1", "sweep=ray", "+hydra.launcher.ray.init.num_cpus=2", "output_dir=sweep",
        "extensions=[gpu_lease_trainer]", "method._target_=gpu_lease_trainer.GpuLeaseTrainer",
    )  # fmt: skip
    leases = tmp_path / "leases"
    leases.mkdir()
    env = {"RAY_USAGE_STATS_ENABLED": "0", "LEASES": str(leases), "PYTHONPATH": python_path(ROOT / "tests")}
    none = World(tmp_path).type(*words, "+hydra.launcher.ray.init.num_gpus=0", env=env)
    assert none.returncode == 2 and "this machine has 0; type hydra.launcher.ray.remote.num_gpus=0" in none.stderr, none.stderr[-3000:]
    done = World(tmp_path).type(*words, "+hydra.launcher.ray.init.num_gpus=2", env=env)
    assert done.returncode == 0 and "2 finished" in done.stderr, done.stderr[-3000:]
    assert {(leases / seed).read_text() for seed in "01"} == {"0", "1"}


def test_one_that_is_not_installed_is_named(tmp_path):
    if importlib.util.find_spec("submitit") is not None:
        pytest.skip("it is installed here")
    done = World(tmp_path).type("-m", *QUICK, "seed=0,1", "sweep=slurm")
    assert done.returncode == 2 and "hydra/launcher=submitit_slurm: is not installed; type: pip install 'lexalign[slurm]'" in done.stderr
