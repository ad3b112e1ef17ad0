"""Refuses what a test may not touch: it writes nothing in the checkout and in the user's home, and reads nothing of the user's runs.

`install` puts an audit hook into a process. The processes that a test starts find `sitecustomize.py` beside this file on their PYTHONPATH
and get the same hook. What is refused raises PermissionError there and then, and is noted with the test's name for the end of the session.
Files that are written past Python (by SQLite, safetensors, a browser) are found by `list_runs` at the end.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

ROOT = "LEXALIGN_GUARD_ROOT"
"""The checkout."""
HOME = "LEXALIGN_GUARD_HOME"
"""The user's home, which HOME no longer names."""
ALLOWED = "LEXALIGN_GUARD_ALLOWED"
"""Folders in the two that tests may write to: pytest's temporary folder, if it lies there."""
NOTES = "LEXALIGN_GUARD_NOTES"
"""The file that takes one line for each thing refused."""

TOOL_FOLDERS = ("__pycache__", ".pytest_cache", ".hypothesis", ".ruff_cache", ".mypy_cache")
"""Caches of Python and of the tools that look at the code."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ONE_PATH = ("os.mkdir", "os.rmdir", "os.remove", "os.truncate", "shutil.rmtree", "sqlite3.connect")
TWO_PATHS = ("os.rename", "os.link", "os.symlink")
READING = ("os.listdir", "os.scandir")

is_paused = False


@contextlib.contextmanager
def pause() -> Iterator[None]:
    """Refuse nothing within the block."""
    global is_paused
    is_paused = True
    try:
        yield
    finally:
        is_paused = False


def install() -> None:
    """Guard this process from now on. Does nothing where no session asks for it."""
    root, home = os.environ.get(ROOT), os.environ.get(HOME)
    if not root or not home:
        return
    allowed = tuple(filter(None, os.environ.get(ALLOWED, "").split(os.pathsep)))
    runs = os.path.join(root, "multirun")

    def find_fault(path: object, is_write: bool, folder: int = -1) -> str | None:
        """What is wrong with a path, or None. A path below an open folder (`folder` is its descriptor) is not looked at."""
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str | os.PathLike) or folder not in (-1, None):
            return None
        path = os.path.abspath(path)
        if is_below(path, runs):
            return None if not is_write and path == os.path.join(runs, ".gitkeep") else "the user's runs"
        if not is_write or not (is_below(path, root) or is_below(path, home)):
            return None
        if any(is_below(path, one) for one in allowed) or any(name in TOOL_FOLDERS for name in path.split(os.sep)):
            return None
        return "the checkout" if is_below(path, root) else "the user's home"

    def watch(event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            paths, is_write, folder = (path,), bool((flags or 0) & WRITING), -1
            if mode is None and not is_write:
                return  # os.open, maybe below an open folder (rmtree does that), of which the event says nothing
        elif event in ONE_PATH:
            paths, is_write, folder = arguments[:1], True, arguments[-1] if event in ("os.mkdir", "os.rmdir", "os.remove") else -1
        elif event in TWO_PATHS:
            paths, is_write, folder = arguments[:2], True, -1
        elif event in READING:
            paths, is_write, folder = arguments[:1], False, -1
        else:
            return
        if is_paused:
            return
        for path in paths:
            fault = find_fault(path, is_write, folder)
            if fault:
                with pause():
                    note(f"{'writes' if is_write else 'reads'} {os.path.abspath(os.fsdecode(path))} ({event}), which is in {fault}")
                raise PermissionError(f"a test may not touch {os.fsdecode(path)}: it is in {fault} (tests/file_guard)")

    sys.addaudithook(watch)


def is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder or below it. Both are absolute."""
    return path == folder or path.startswith(folder + os.sep)


def note(text: str) -> None:
    """Append a line with the test's name to the session's notes."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "no test").rpartition(" (")[0] or "outside of a test"
    with open(os.environ[NOTES], "a", encoding="utf-8") as file:
        file.write(f"{test}: {text}\n")


def list_runs(root: str) -> dict[str, tuple[int, int]]:
    """Everything in the user's `multirun/`, and the names at the top of the checkout: path to time of change (ns) and size."""
    entries = {}
    with pause():
        for folder, folders, files in os.walk(os.path.join(root, "multirun")):
            for path in (os.path.join(folder, name) for name in [*folders, *files]):
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(path)
                    entries[path] = (status.st_mtime_ns, status.st_size)
        for entry in os.scandir(root):
            if entry.name not in (*TOOL_FOLDERS, ".git"):
                entries.setdefault(entry.path, (0, 0))
    return entries
