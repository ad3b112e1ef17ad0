"""What a job runs on: a share of the CPU's threads, and one GPU that no other sweep of this machine has."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from lexalign.config import hardware
from lexalign.config.paths import find_model
from lexalign.config.schema import Experiment, Sweep
from lexalign.errors import ConfigError

log = logging.getLogger(__name__)
OF_A_JOB = 1.5e9
"""Bytes that Python and the libraries take in a process of their own."""
TIMES_THE_WEIGHTS = 4
"""Weights in float32, gradients and the optimizer's two moments: what a model on the disk may grow to."""


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time."""

    threads: int
    """Of each of the job's processes."""
    gpu: str | None
    """Its GPUs, as CUDA_VISIBLE_DEVICES names them."""


def list_visible_gpus() -> list[str]:
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()][: hardware.count_cuda_devices()]
    return [str(number) for number in range(hardware.count_cuda_devices())]


def estimate_memory(experiment: Experiment) -> float | None:
    """Estimate the bytes of memory of a job on the CPU by the size of its base model; None where that is not on this disk."""
    path = experiment.model.path
    if path is None:
        return None
    place = find_model(path)
    if place.path is None:
        return None
    files = [file for file in place.path.rglob("*") if file.suffix in (".safetensors", ".gguf")] if place.path.is_dir() else [place.path]
    return OF_A_JOB + TIMES_THE_WEIGHTS * sum(file.stat().st_size for file in files)


def count_slots(settings: Sweep, experiments: Sequence[Experiment], *, waiting: int) -> tuple[int, str]:
    """Return the number of jobs at a time, and the reason. Raises ConfigError where `sweep.jobs` needs more GPUs than there are."""
    devices = {hardware.resolve_device(experiment.hardware.device) for experiment in experiments}
    gpus, processes_each = len(list_visible_gpus()) if "cuda" in devices else 0, count_processes(experiments)
    if settings.jobs != "auto":
        if gpus and settings.jobs * processes_each > gpus:
            suffix = "its own" if processes_each == 1 else f"{processes_each} of its own"
            raise ConfigError(
                f"sweep.jobs={settings.jobs}: there are {gpus} GPUs, and each job gets {suffix}; type sweep.jobs={gpus // processes_each}"
            )
        return min(settings.jobs, waiting), f"sweep.jobs={settings.jobs}"
    if gpus:
        return min(gpus // processes_each, waiting), f"{gpus} GPUs, {processes_each} for each"
    if "mps" in devices:
        return 1, "Apple's GPU takes one"
    sizes = [estimate_memory(experiment) for experiment in experiments]
    if any(size is None for size in sizes):
        return 1, "the size of a model is not known before it is fetched; sweep.jobs says otherwise"
    largest = max(size for size in sizes if size is not None)
    fitting = int(psutil.virtual_memory().available // (largest * processes_each))
    count = max(1, min(hardware.count_cores() // processes_each, fitting, waiting))
    return count, f"{hardware.count_cores()} cores, and memory for {fitting}"


def count_processes(experiments: Sequence[Experiment]) -> int:
    """Processes of the job that has most (`hardware.processes`)."""
    return max(1, *(hardware.count_local_processes(experiment.hardware) for experiment in experiments))


@contextmanager
def lease_gpus(count: int, *, cuda: bool, each: int = 1, leases: Path | None = None) -> Iterator[list[Slot]]:
    """`count` slots, each with its share of the threads and, with `cuda`, `each` GPUs that are ours until the block ends.

    A GPU that another sweep of this machine holds is passed over; where too few are left, this waits for them.
    """
    threads = max(1, hardware.count_cores() // (count * each))
    if not cuda:
        yield [Slot(threads, None)] * count
        return
    leases = leases or hardware.get_user_cache() / "gpus"
    leases.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        while len(gpus := take_gpus(locks, leases, count * each)) < each:
            locks.close()  # otherwise two sweeps could wait for each other for ever
            log.warning("Of %d GPUs %d are another sweep's; waiting", len(list_visible_gpus()), len(list_visible_gpus()) - len(gpus))
            time.sleep(5)
        slot_count = len(gpus) // each
        if slot_count < count:
            log.warning("Another sweep has %d of the GPUs: %d jobs at a time", count * each - len(gpus), slot_count)
        parts = [gpus[at * each : (at + 1) * each] for at in range(slot_count)]
        yield [Slot(max(1, hardware.count_cores() // (slot_count * each)), ",".join(part)) for part in parts]


def take_gpus(locks: ExitStack, leases: Path, count: int) -> list[str]:
    """Lease at most `count` GPUs that no other sweep has. `locks` holds the leases."""
    gpus: list[str] = []
    for gpu in list_visible_gpus():
        if len(gpus) < count:
            try:
                locks.enter_context(FileLock(leases / f"{gpu.replace('/', '_')}.lock", timeout=0))
            except Timeout:
                continue
            gpus.append(gpu)
    return gpus
