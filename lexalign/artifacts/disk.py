"""Check for disk space before writing, and turn the errors of a full disk into one clear error."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lexalign.errors import DiskFull, LexAlignError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WORDS = ("No space left", "quota exceeded", "File too large", "PytorchStreamWriter", "inline_container", "iostream error")
"""Parts of the messages of torch and safetensors for a full disk. Their errors carry no errno."""
MB = 1e6


@contextmanager
def require_space(needed: int | None, folder: Path, *, what: str) -> Iterator[None]:
    """Raise DiskFull before the block if `folder` lacks `needed` free bytes. Inside it, an error of a full disk becomes DiskFull."""
    if needed is not None and shutil.disk_usage(folder).free < needed:
        raise make_disk_full_error(needed, folder, what=what)
    try:
        yield
    except LexAlignError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise make_disk_full_error(needed, folder, what=what, cause=str(error)) from error
        raise


def make_disk_full_error(needed: int | None, folder: Path, *, what: str, cause: str | None = None) -> DiskFull:
    """Make the DiskFull error with the bytes needed and the bytes free."""
    free = shutil.disk_usage(folder).free
    reason = f" ({' '.join(cause.split())[:120]})" if cause else ""
    wants = f"{what} needs {needed / MB:,.1f} MB" if needed is not None else f"{what} cannot write"
    return DiskFull(
        f"{wants}, there are {free / MB:,.1f} MB at {folder}{reason}; what was saved before is whole. Free some space and type the "
        "same command again"
    )


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error comes from a full disk."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return any(word in str(error) for word in WORDS)
