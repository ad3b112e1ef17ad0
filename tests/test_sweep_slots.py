"""What a job runs on: threads divided, one GPU each, and never one that another sweep holds."""

import multiprocessing

import pytest
from experiment_runner import result_of

from lexalign.config import hardware
from lexalign.config.compose import compose
from lexalign.config.context import RunContext
from lexalign.errors import ConfigError
from lexalign.sweeps import job, slots


def hold(leases, ready, done):
    """Another sweep on this machine, with one GPU."""
    slots.list_visible_gpus = lambda: ["0", "1"]
    with slots.lease_gpus(1, cuda=True, leases=leases) as found:
        ready.put(found[0].gpu)
        done.get()


def alone(task):
    """In a process of its own: go on in a new interpreter."""
    job.respawn_job(task)


def test_a_job_can_do_without_the_shared_imports(tmp_path):
    """As where an import has started CUDA: the same process goes on in a new interpreter, and its run is like any other."""
    words = ["tracking=none", f"store={tmp_path}/store", "train.max_steps=1", "data.limit=16", "evaluate=false", "preflight=skip"]
    out_dir = tmp_path / "run"
    out_dir.mkdir()
    task = job.Task(
        composed=compose(words), context=RunContext(out_dir=out_dir, name="cold"), parent_only=False, output=out_dir / job.OUTPUT,
        threads=1, gpu="0", began=0.0,
    )  # fmt: skip
    process = multiprocessing.get_context("spawn").Process(target=alone, args=(task,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert result_of(out_dir)["status"] == "finished" and not list(out_dir.glob(".job*"))
    assert not job.has_started_cuda() or hardware.count_cuda_devices()


def test_two_sweeps_never_share_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "list_visible_gpus", lambda: ["0", "1"])
    context = multiprocessing.get_context("spawn")
    ready, done = context.Queue(), context.Queue()
    other = context.Process(target=hold, args=(tmp_path, ready, done))
    other.start()
    try:
        assert ready.get(timeout=60) == "0"
        with slots.lease_gpus(2, cuda=True, leases=tmp_path) as found:
            assert [slot.gpu for slot in found] == ["1"]
            assert found[0].threads == hardware.count_cores()
    finally:
        done.put(None)
        other.join()
    with slots.lease_gpus(2, cuda=True, leases=tmp_path) as found:
        assert [slot.gpu for slot in found] == ["0", "1"], "the other sweep is gone"


def test_threads_are_divided():
    with slots.lease_gpus(2, cuda=False) as found:
        assert [slot.threads for slot in found] == [max(1, hardware.count_cores() // 2)] * 2


@pytest.mark.parametrize(
    ("overrides", "waiting", "wanted"),
    [([], 1, 1), (["sweep.jobs=7"], 5, 5), ([], 99, hardware.count_cores()), (["model=qwen3_4b", "data=tiny_sft"], 99, 1)],
)
def test_how_many_at_a_time(overrides, waiting, wanted):
    experiment = compose(["tracking=none", *overrides]).experiment
    assert slots.count_slots(experiment.sweep, [experiment], waiting=waiting)[0] == wanted


def test_more_jobs_than_gpus_are_refused(monkeypatch):
    experiment = compose(["tracking=none", "sweep.jobs=3"]).experiment
    monkeypatch.setattr(slots, "list_visible_gpus", lambda: ["0", "1"])
    monkeypatch.setattr(hardware, "resolve_device", lambda wanted: "cuda")
    with pytest.raises(ConfigError, match=r"there are 2 GPUs, and each job gets its own; type sweep.jobs=2"):
        slots.count_slots(experiment.sweep, [experiment], waiting=9)
