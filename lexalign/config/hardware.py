"""Find the hardware of this machine without importing torch."""

import ctypes
import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from lexalign.config.schema import Hardware
from lexalign.errors import RendezvousFailed

SLURM = "slurm"
PORTS = range(20000, 30000)
"""Ports where the nodes of a Slurm job meet. The job number chooses the port. Systems assign only higher ports themselves."""


@cache
def load_cuda_driver() -> ctypes.CDLL | None:
    """The initialized CUDA driver; None if there is none."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        if driver.cuInit(0) == 0:
            return driver
    return None


@cache
def count_cuda_devices() -> int:
    """The number of CUDA devices that the driver shows to this process (0 without a driver, or with CUDA_VISIBLE_DEVICES empty)."""
    driver, count = load_cuda_driver(), ctypes.c_int(0)
    return count.value if driver is not None and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def get_cuda_memory() -> float:
    """Bytes of memory of the smallest CUDA device. There must be a device."""
    driver, sizes = load_cuda_driver(), []
    assert driver is not None
    for number in range(count_cuda_devices()):
        size = ctypes.c_size_t(0)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), number)
        sizes.append(size.value)
    return min(sizes)


def has_mps() -> bool:
    """Whether this is a Mac with Apple's own chip."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def is_torch_cpu_build() -> bool:
    """Whether the installed torch was built without CUDA (its version says so)."""
    return "+cpu" in importlib.metadata.version("torch")


def resolve_device(setting: str) -> str:
    """The device that `hardware.device` means on this machine."""
    if setting != "auto":
        return setting
    if count_cuda_devices() and not is_torch_cpu_build():
        return "cuda"
    return "mps" if has_mps() else "cpu"


def count_local_processes(chosen: Hardware) -> int:
    """`hardware.processes`; auto = one for each CUDA device, so 0 if there are no devices."""
    if chosen.strategy in ("single", "auto"):
        return 1
    return count_cuda_devices() if chosen.processes == "auto" else chosen.processes


def get_world_size(chosen: Hardware) -> int:
    """The number of processes of a run on all its nodes."""
    return count_local_processes(chosen) * chosen.nodes


def is_sharded(chosen: Hardware) -> bool:
    """Whether each process holds only a part of the weights."""
    return chosen.strategy == "fsdp" or (chosen.strategy == "deepspeed" and chosen.zero == 3)


def get_sharding(chosen: Hardware) -> str | None:
    """The overrides of a run that shards a checkpoint in the same way; None if each process has the whole state."""
    if get_world_size(chosen) == 1 or chosen.strategy not in ("fsdp", "deepspeed"):
        return None
    if chosen.strategy == "fsdp":
        return "hardware=fsdp"
    nodes = f" hardware.nodes={chosen.nodes}" if chosen.nodes > 1 else ""
    return f"hardware=deepspeed hardware.zero={chosen.zero} hardware.processes={count_local_processes(chosen)}{nodes}"


def get_node_rank(chosen: Hardware) -> int | None:
    """`hardware.node`, or the node number from Slurm; None if both are missing."""
    if chosen.nodes == 1:
        return 0
    slurm_rank = os.environ.get("SLURM_NODEID")
    return chosen.node if chosen.node is not None else int(slurm_rank) if slurm_rank else None


def resolve_rendezvous(chosen: Hardware) -> str | None:
    """`hardware.rendezvous` as host:port. Raises RendezvousFailed if it is `slurm` and this is not a Slurm job."""
    if chosen.rendezvous != SLURM:
        return chosen.rendezvous
    job, nodes = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_NODELIST")
    if job is None or nodes is None:
        raise RendezvousFailed(
            "hardware.rendezvous=slurm: this process is in no job of Slurm's; type sweep=slurm with -m, start it by srun, or name node 0: "
            "hardware.rendezvous=node0:29500"
        )
    hostnames = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return f"{hostnames.stdout.split()[0]}:{PORTS.start + int(job) % len(PORTS)}"


def count_cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def get_processor_name() -> str:
    """The name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model_names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(model_names, platform.processor() or platform.machine())


def get_user_cache() -> Path:
    """The user's folder for files that can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lexalign"
