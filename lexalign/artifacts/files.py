"""What a run leaves on the disk, written so that half a file is never taken for a whole one."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's name of what it says of an adapter."""
LEDGER = "ledger.sqlite"
"""In the folder of a sweep."""
ASIDE = ".tmp-"
"""How the names of files and folders begin that are not whole yet; a killed run leaves them behind."""


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f"{ASIDE}{uuid.uuid4().hex}-{path.name}"
    try:
        aside.write_text(text, encoding="utf-8")
        sync_to_disk(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_to_disk(path.parent)


def sync_to_disk(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def write_folder(folder: Path, *, beside: Path | None = None, replace: bool = False) -> Iterator[Path]:
    """Within the block, a folder aside to be filled; after it, under its name with every file on the disk, or not there at all.

    It stands in `beside` (of the same disk; else where `folder` will be). A folder that already has the name stays, unless `replace`.
    """
    beside = beside or folder.parent
    beside.mkdir(parents=True, exist_ok=True)
    aside = beside / f"{ASIDE}{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        yield aside
        for path in [*aside.rglob("*"), aside]:
            sync_to_disk(path)
        if replace and folder.exists():
            # Aside as well: killed while it is removed, it would be half a folder under a whole one's name.
            old = folder.rename(beside / f"{ASIDE}{uuid.uuid4().hex}")
            shutil.rmtree(old, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        sync_to_disk(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left half written in its own folder."""
    for aside in folder.glob(f"{ASIDE}*"):
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep."""
    return (folder / LEDGER).is_file()
