"""What a job runs on: threads divided, one GPU each, and never one that another sweep holds."""

import multiprocessing

import pytest

from lexalign.config import hardware
from lexalign.config.compose import compose
from lexalign.errors import ConfigError
from lexalign.sweeps import slots


def hold(leases, ready, done):
    """Another sweep on this machine, with one GPU."""
    slots.list_visible_gpus = lambda: ["0", "1"]
    with slots.lease_gpus(1, cuda=True, leases=leases) as found:
        ready.put(found[0].gpu)
        done.get()


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
