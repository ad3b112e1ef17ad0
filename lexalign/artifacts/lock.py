"""The lock on a run's folder: one process writes to it at a time."""

import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLock, Timeout

from lexalign.artifacts import file_systems
from lexalign.errors import FolderInUse

log = logging.getLogger(__name__)
FILE = ".lock"
LIFE = ".lock.slurm"
"""File that names the Slurm job that held the lock last."""
TICK = 0.2
"""Seconds between two checks of another process's lock."""
NAMING = 2.0
"""Seconds that a process has to write its name into a lock file that it created."""
NAMING_AFAR = 60.0
"""The same on a network file system, where other machines see a write later."""


@contextmanager
def hold_lock(out_dir: Path) -> Iterator[str | None]:
    """Hold the lock of `out_dir` during the block. Yields the holder of a lock that a dead process left behind, or None.

    Raises FolderInUse, which names process and host. filelock decides whether a holder is dead: it compares process start times on this
    host, and never treats a process of another host as dead.
    """
    path = out_dir / FILE
    before = read_holder(path)
    if is_outlived(out_dir):
        path.unlink(missing_ok=True)
    lock = SoftFileLock(path, timeout=0)
    if not try_lock(lock) and not (remove_nameless_lock(path) and try_lock(lock)):
        raise FolderInUse(
            f"output_dir={out_dir}: {read_holder(path) or 'another process'} writes here now; wait for it, or type another output_dir. "
            f"(Is it gone, and was it another host's? Remove {path}.)"
        )
    if life := get_slurm_job():
        (out_dir / LIFE).write_text(" ".join(map(str, life)), encoding="utf-8")
    try:
        yield before
    finally:
        lock.release()


def try_lock(lock: SoftFileLock) -> bool:
    """Try to take the lock; return whether that worked."""
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


def remove_nameless_lock(path: Path) -> bool:
    """Remove a lock file that stays empty for `NAMING` or `NAMING_AFAR` seconds; return whether it was removed.

    Its process was killed before it wrote its name. filelock never treats such a process as dead.
    """
    try:
        first = path.stat()
        until = time.monotonic() + (NAMING_AFAR if file_systems.get_network_file_system(path.parent) else NAMING)
        while time.monotonic() < until:
            if read_holder(path) is not None:
                return False
            time.sleep(0.01)
        now = path.stat()
        if (now.st_ino, now.st_ctime_ns, now.st_size) != (first.st_ino, first.st_ctime_ns, first.st_size):
            return False
        path.unlink()
    except FileNotFoundError:  # released meanwhile
        return True
    log.warning("%s is empty: the process that created it was killed. This run takes the lock over", path)
    return True


def get_slurm_job() -> tuple[int, int] | None:
    """Return the number of this Slurm job and its restart count; None outside Slurm."""
    job = os.environ.get("SLURM_JOB_ID")
    return (int(job), int(os.environ.get("SLURM_RESTART_COUNT", "0"))) if job else None


def is_outlived(out_dir: Path) -> bool:
    """Return whether the lock of `out_dir` is from an earlier start of this Slurm job, on any host."""
    life = get_slurm_job()
    try:
        job, count = map(int, (out_dir / LIFE).read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        return False
    return life is not None and job == life[0] and count < life[1]


def is_alive(out_dir: Path) -> bool:
    """Return whether a process runs in `out_dir`."""
    if not (out_dir / FILE).exists():
        return False
    lock = SoftFileLock(out_dir / FILE, timeout=0)
    if try_lock(lock):
        lock.release()
        return False
    return not remove_nameless_lock(out_dir / FILE)


def wait_until_free(out_dir: Path, *, patience: float = math.inf) -> None:
    """Wait until no process runs in `out_dir`, at most `patience` seconds. Prints one line while waiting."""
    is_announced, until = False, time.monotonic() + patience
    while is_alive(out_dir) and time.monotonic() < until:
        if not is_announced:
            print(f"{out_dir}: {read_holder(out_dir / FILE)} still writes here; waiting until it has saved", file=sys.stderr, flush=True)
            is_announced = True
        time.sleep(TICK)


def read_holder(path: Path) -> str | None:
    """Return the process and host that a lock file names; None if it names none."""
    try:
        pid, host, *_ = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return f"process {pid} on {host.partition('?')[0]}"
