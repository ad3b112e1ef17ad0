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

from lexalign import hardware
from lexalign.errors import ConfigError
from lexalign.locate import find_model
from lexalign.schema import Experiment, Sweep

log = logging.getLogger(__name__)
OF_A_JOB = 1.5e9
"""Bytes that Python and the libraries take in a process of their own."""
TIMES_THE_WEIGHTS = 4
"""Weights in float32, gradients and the optimizer's two moments: what a model on the disk may grow to."""


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time."""

    threads: int
    gpu: str | None


def visible_gpus() -> list[str]:
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()][: hardware.cuda_devices()]
    return [str(number) for number in range(hardware.cuda_devices())]


def needed(experiment: Experiment) -> float | None:
    """Bytes of memory that a job takes on the CPU, roughly, by the model its parents began with; None where that is not on this disk."""
    path = experiment.model.path
    if path is None:
        return None
    place = find_model(path)
    if place.path is None:
        return None
    files = [file for file in place.path.rglob("*") if file.suffix in (".safetensors", ".gguf")] if place.path.is_dir() else [place.path]
    return OF_A_JOB + TIMES_THE_WEIGHTS * sum(file.stat().st_size for file in files)


def how_many(settings: Sweep, experiments: Sequence[Experiment], *, waiting: int) -> tuple[int, str]:
    """Jobs at a time, and why. Raises ConfigError where there are fewer GPUs than jobs asked for."""
    devices = {hardware.resolve_device(experiment.hardware.device) for experiment in experiments}
    gpus = len(visible_gpus()) if "cuda" in devices else 0
    if settings.jobs != "auto":
        if gpus and settings.jobs > gpus:
            raise ConfigError(f"sweep.jobs={settings.jobs}: there are {gpus} GPUs, and each job gets its own; type sweep.jobs={gpus}")
        return min(settings.jobs, waiting), f"sweep.jobs={settings.jobs}"
    if gpus:
        return min(gpus, waiting), f"one on each of {gpus} GPUs"
    if "mps" in devices:
        return 1, "Apple's GPU takes one"
    sizes = [needed(experiment) for experiment in experiments]
    if any(size is None for size in sizes):
        return 1, "the size of a model is not known before it is fetched; sweep.jobs says otherwise"
    largest = max(size for size in sizes if size is not None)
    fit = int(psutil.virtual_memory().available // largest)
    count = max(1, min(hardware.cores(), fit, waiting))
    return count, f"{hardware.cores()} cores, and memory for {fit}"


@contextmanager
def leased(count: int, *, cuda: bool, leases: Path | None = None) -> Iterator[list[Slot]]:
    """`count` slots, each with its share of the threads and, with `cuda`, a GPU that is ours until the block ends.

    A GPU that another sweep of this machine holds is passed over; where none is left, this waits for one.
    """
    threads = max(1, hardware.cores() // count)
    if not cuda:
        yield [Slot(threads, None)] * count
        return
    leases = leases or hardware.user_cache() / "gpus"
    leases.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        taken: list[str] = []
        while not taken:
            for gpu in visible_gpus():
                lease = FileLock(leases / f"{gpu.replace('/', '_')}.lock", timeout=0)
                if len(taken) < count:
                    try:
                        held.enter_context(lease)
                    except Timeout:
                        continue
                    taken.append(gpu)
            if not taken:
                log.warning("Every GPU is another sweep's; waiting for one")
                time.sleep(5)
        if len(taken) < count:
            log.warning("Another sweep has %d of the GPUs: %d jobs at a time", count - len(taken), len(taken))
        yield [Slot(max(1, hardware.cores() // len(taken)), gpu) for gpu in taken]
