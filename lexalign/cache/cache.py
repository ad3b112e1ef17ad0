"""A cache on the disk that several runs share, keyed by content.

An entry is a folder named by the key of its content. It is written under a temporary name and renamed, with a `digests.json` of its files.
An entry that does not match its digests is removed and made again. Above the size limit, the least recently used entries are removed.
"""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from lexalign.artifacts.files import ASIDE, write_folder
from lexalign.artifacts.fingerprint import digest_bytes as digest
from lexalign.config.schema import Experiment

log = logging.getLogger(__name__)
DIGESTS = "digests.json"
ABANDONED = 24 * 3600
"""Seconds after which a temporary entry is treated as left behind by a killed run."""


CACHES = ("tokens", "reference", "measurements", "preflight")


def open_cache(experiment: Experiment, name: str) -> "ContentCache":
    """Open one of the `CACHES` in an experiment's store."""
    assert name in CACHES
    return ContentCache(Path(experiment.store) / name, max_bytes=int(experiment.cache.max_gb * 1e9))


def manage_cache(experiment: Experiment) -> str:
    """Show or clear the caches (`cache.action`); return the text to print."""
    lines = []
    for name in CACHES:
        entries = open_cache(experiment, name)
        count, size = len(entries.list_names()), entries.measure_size()
        lines.append(f"{entries.root}: {count} entries, {size / 1e6:,.1f} MB of at most {entries.max_bytes / 1e6:,.0f} MB")
        if experiment.cache.action == "clear":
            entries.clear()
            lines[-1] = f"{entries.root}: {count} entries removed, {size / 1e6:,.1f} MB freed{explain_rest(entries.root)}"
    return "\n".join(lines)


def explain_rest(root: Path) -> str:
    """Say what a cleared cache's folder still holds: files that are not ours are never removed."""
    rest = len(list(root.iterdir())) if root.is_dir() else 0
    return f"; {rest} other files or folders stay" if rest else ""


class ContentCache:
    """The entries below `root`, together at most `max_bytes` after each addition."""

    def __init__(self, root: Path, *, max_bytes: int):
        self.root = root
        self.max_bytes = max_bytes

    def get(self, name: str) -> Path | None:
        """Return the folder of a whole entry and mark it as used; None if it is absent or damaged. A damaged entry is removed."""
        folder = self.root / name
        try:
            digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
            names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {DIGESTS}
            damaged_files = sorted(names ^ set(digests)) or [file for file, value in digests.items() if digest(folder / file) != value]
        except (OSError, ValueError, AttributeError, TypeError):
            if not folder.exists():
                return None
            damaged_files = [DIGESTS]
        if damaged_files:
            log.warning("%s is damaged (%s) and is made again", folder, ", ".join(damaged_files))
            shutil.rmtree(folder, ignore_errors=True)
            return None
        os.utime(folder)
        return folder

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Make an entry: `write` fills a temporary folder. If another run was faster, its entry stays."""
        with write_folder(self.root / name, beside=self.root) as folder:
            write(folder)
            files = {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
            (folder / DIGESTS).write_text(json.dumps(files), encoding="utf-8")
        self.trim(keep=name)

    def list_names(self, below: str = "") -> list[str]:
        """List the names of the entries, or of those in the folder `below`."""
        names = []
        for folder, inside, files in os.walk(self.root / below):  # os.walk skips folders that another run removes meanwhile
            inside[:] = [] if DIGESTS in files else [name for name in inside if not name.startswith(ASIDE)]
            names += [str(Path(folder).relative_to(self.root))] if DIGESTS in files else []
        return sorted(names)

    def measure_size(self) -> int:
        """Return the bytes of all entries."""
        return sum(measure_folder(self.root / name) for name in self.list_names())

    def trim(self, *, keep: str) -> None:
        """Remove the least recently used entries until the cache is within its limit, and old temporary folders. `keep` stays."""
        for temporary_folder in self.root.glob(f"{ASIDE}*"):
            if time.time() - get_last_use(temporary_folder) > ABANDONED:
                shutil.rmtree(temporary_folder, ignore_errors=True)
        entries = [(self.root / name, name) for name in self.list_names()]
        sizes = {folder: measure_folder(folder) for folder, _ in entries}
        total = sum(sizes.values())
        for folder, name in sorted(entries, key=lambda entry: get_last_use(entry[0])):
            if total <= self.max_bytes:
                return
            if name != keep:
                shutil.rmtree(folder, ignore_errors=True)
                total -= sizes[folder]
                log.info("%s is removed: the cache is limited to %.3g GB (cache.max_gb)", folder, self.max_bytes / 1e9)

    def clear(self) -> None:
        """Remove all entries, and the temporary folders of killed runs. Other files in the folder stay."""
        for name in self.list_names():
            shutil.rmtree(self.root / name, ignore_errors=True)
        for temporary_folder in self.root.glob(f"{ASIDE}*"):
            if re.fullmatch(re.escape(ASIDE) + "[0-9a-f]{32}", temporary_folder.name):
                shutil.rmtree(temporary_folder, ignore_errors=True)
        for folder in sorted(self.root.rglob("*"), reverse=True):
            if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
                folder.rmdir()
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()


def measure_folder(folder: Path) -> int:
    """Return the bytes of a folder's files; 0 if another run has just removed it."""
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:
        return 0


def get_last_use(folder: Path) -> float:
    """Return the time when an entry was last used."""
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
