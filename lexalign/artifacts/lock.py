"""One writer a folder."""

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
"""Which Slurm job had the lock last."""
TICK = 0.2
"""Seconds between two looks at another's lock."""
NAMING = 2.0
"""Seconds that a process which has just made the file may take to write its name into it."""
NAMING_AFAR = 60.0
"""The same on a network file system, where another machine sees it later."""


@contextmanager
def hold_lock(out_dir: Path) -> Iterator[str | None]:
    """Within the block, no other process runs in `out_dir`; yields who held a lock that was left behind by a dead process.

    Raises FolderInUse, which names process and host. The file's name and life are filelock's: it also tells a dead process of this host
    from one that has its number now, and never takes another host's for dead.
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
    """Whether the lock is ours now."""
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


def remove_nameless_lock(path: Path) -> bool:
    """Remove a lock that has no name in it and gets none for `NAMING` or `NAMING_AFAR` seconds: the process that made it was killed before
    it could write one, and filelock never takes such a process for dead. Whether it was one.
    """
    try:
        found = path.stat()
        until = time.monotonic() + (NAMING_AFAR if file_systems.get_network_file_system(path.parent) else NAMING)
        while time.monotonic() < until:
            if read_holder(path) is not None:
                return False
            time.sleep(0.01)
        now = path.stat()
        if (now.st_ino, now.st_ctime_ns, now.st_size) != (found.st_ino, found.st_ctime_ns, found.st_size):
            return False
        path.unlink()
    except FileNotFoundError:  # let go of meanwhile
        return True
    log.warning("%s has no name in it: the process that made it was killed; it is taken over", path)
    return True


def get_slurm_job() -> tuple[int, int] | None:
    """Number of the Slurm job that this process belongs to, and how often that was put in the queue again; None outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    return (int(job), int(os.environ.get("SLURM_RESTART_COUNT", "0"))) if job else None


def is_outlived(out_dir: Path) -> bool:
    """Whether the lock of `out_dir` is from an earlier life of this very Slurm job, which has ended, on whatever host that was."""
    life = get_slurm_job()
    try:
        job, count = map(int, (out_dir / LIFE).read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        return False
    return life is not None and job == life[0] and count < life[1]


def is_alive(out_dir: Path) -> bool:
    """Whether a process runs in `out_dir`."""
    if not (out_dir / FILE).exists():
        return False
    lock = SoftFileLock(out_dir / FILE, timeout=0)
    if try_lock(lock):
        lock.release()
        return False
    return not remove_nameless_lock(out_dir / FILE)


def wait_until_free(out_dir: Path, *, patience: float = math.inf) -> None:
    """Wait until no process runs in `out_dir`, `patience` seconds at the most; says so once."""
    said, until = False, time.monotonic() + patience
    while is_alive(out_dir) and time.monotonic() < until:
        if not said:
            print(f"{out_dir}: {read_holder(out_dir / FILE)} still writes here; waiting until it has saved", file=sys.stderr, flush=True)
            said = True
        time.sleep(TICK)


def read_holder(path: Path) -> str | None:
    """Process and host that a lock file names; None where there is none."""
    try:
        pid, host, *_ = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return f"process {pid} on {host.partition('?')[0]}"
