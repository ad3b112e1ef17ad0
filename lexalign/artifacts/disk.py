"""A full disk, said in numbers before it is met, and as what it is where it is met."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lexalign.errors import DiskFull, LexAlignError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WORDS = ("No space left", "quota exceeded", "File too large", "PytorchStreamWriter", "inline_container", "iostream error")
"""How torch's and safetensors' writers tell of it, which keep no error number."""
MB = 1e6


@contextmanager
def require_space(needed: int | None, folder: Path, *, what: str) -> Iterator[None]:
    """Raise DiskFull before the block where `folder` has not `needed` bytes, and in place of any error that a full disk makes in it."""
    if needed is not None and shutil.disk_usage(folder).free < needed:
        raise make_disk_full_error(needed, folder, what=what)
    try:
        yield
    except LexAlignError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise make_disk_full_error(needed, folder, what=what, said=str(error)) from error
        raise


def make_disk_full_error(needed: int | None, folder: Path, *, what: str, said: str | None = None) -> DiskFull:
    """The error in numbers."""
    free = shutil.disk_usage(folder).free
    reason = f" ({' '.join(said.split())[:120]})" if said else ""
    wants = f"{what} needs {needed / MB:,.1f} MB" if needed is not None else f"{what} cannot write"
    return DiskFull(
        f"{wants}, there are {free / MB:,.1f} MB at {folder}{reason}; what was saved before is whole: make room and type the "
        "same command again"
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that no more can be written."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return any(word in str(error) for word in WORDS)
