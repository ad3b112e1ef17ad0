"""A folder of entries that are whole or not there, shared by runs that know nothing of each other.

An entry is a folder named by the key of its content, written aside and renamed, with a `digests.json` of its files. An entry that does not
match its digests is removed and counts as absent. The oldest used go first when the shelf grows over its bound.
"""

import json
import logging
import os
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
"""Seconds after which a half-written entry is taken for a killed run's."""


SHELVES = ("tokens", "reference", "preflight")


def open_cache(experiment: Experiment, name: str) -> "ContentCache":
    """One of the `SHELVES` of an experiment's store."""
    assert name in SHELVES
    return ContentCache(Path(experiment.store) / name, max_bytes=int(experiment.cache.max_gb * 1e9))


def manage_cache(experiment: Experiment) -> str:
    """Do what `cache` asks for, show or clear, and say what is there or was there."""
    lines = []
    for name in SHELVES:
        shelf = open_cache(experiment, name)
        count, size = len(shelf.names()), shelf.size()
        lines.append(f"{shelf.root}: {count} entries, {size / 1e6:,.1f} MB of at most {shelf.max_bytes / 1e6:,.0f} MB")
        if experiment.cache.action == "clear":
            shelf.clear()
            lines[-1] = f"{shelf.root}: {count} entries removed, {size / 1e6:,.1f} MB freed"
    return "\n".join(lines)


class ContentCache:
    """Entries below `root`, together no larger than `max_bytes` after each addition."""

    def __init__(self, root: Path, *, max_bytes: int):
        self.root = root
        self.max_bytes = max_bytes

    def get(self, name: str) -> Path | None:
        """The folder of a whole entry, noted as used now; None where it is absent or damaged (a damaged one is removed)."""
        folder = self.root / name
        try:
            wanted = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
            broken = [file for file, value in wanted.items() if digest(folder / file) != value]
        except (OSError, ValueError, AttributeError):
            if not folder.exists():
                return None
            broken = [DIGESTS]
        if broken:
            log.warning("%s is damaged (%s) and is made again", folder, ", ".join(broken))
            shutil.rmtree(folder, ignore_errors=True)
            return None
        os.utime(folder)
        return folder

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Make an entry: `write` fills a folder aside. Where another run was faster, its entry stays."""
        with write_folder(self.root / name, beside=self.root) as aside:
            write(aside)
            files = {str(path.relative_to(aside)): digest(path) for path in sorted(aside.rglob("*")) if path.is_file()}
            (aside / DIGESTS).write_text(json.dumps(files), encoding="utf-8")
        self.trim(keep=name)

    def names(self, below: str = "") -> list[str]:
        """Names of the entries, those of one folder of the shelf only where it is named."""
        found = []
        for folder, inside, files in os.walk(self.root / below):  # which passes over what another run removes meanwhile
            inside[:] = [] if DIGESTS in files else [name for name in inside if not name.startswith(ASIDE)]
            found += [str(Path(folder).relative_to(self.root))] if DIGESTS in files else []
        return sorted(found)

    def size(self) -> int:
        """Bytes of all entries."""
        return sum(measure_folder(self.root / name) for name in self.names())

    def trim(self, *, keep: str) -> None:
        """Remove the entries longest unused until the shelf is within its bound, and what killed runs left half written; `keep` stays."""
        for aside in self.root.glob(f"{ASIDE}*"):
            if time.time() - get_last_use(aside) > ABANDONED:
                shutil.rmtree(aside, ignore_errors=True)
        entries = [(self.root / name, name) for name in self.names()]
        sizes = {folder: measure_folder(folder) for folder, _ in entries}
        total = sum(sizes.values())
        for folder, name in sorted(entries, key=lambda entry: get_last_use(entry[0])):
            if total <= self.max_bytes:
                return
            if name != keep:
                shutil.rmtree(folder, ignore_errors=True)
                total -= sizes[folder]
                log.info("%s is removed: the store is bounded at %.3g GB (cache.max_gb)", folder, self.max_bytes / 1e9)

    def clear(self) -> None:
        """Remove all entries."""
        shutil.rmtree(self.root, ignore_errors=True)


def measure_folder(folder: Path) -> int:
    """Bytes of a folder's files; 0 where another run has just removed it."""
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:
        return 0


def get_last_use(folder: Path) -> float:
    """When an entry was last asked for."""
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
