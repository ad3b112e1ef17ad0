"""Atomic writes: a file or a folder appears whole under its name, or not at all."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lexalign.config.secrets import redact, redact_tree

ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's file of an adapter's settings."""
LEDGER = "ledger.sqlite"
"""The sweep's database, in the sweep's folder."""
ASIDE = ".tmp-"
"""Prefix of files and folders that are still being written. A killed run leaves them behind."""


def write_text(path: Path, text: str) -> None:
    """Write a text file, without secrets, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f"{ASIDE}{uuid.uuid4().hex}-{path.name}"
    try:
        aside.write_text(redact(text), encoding="utf-8")
        sync_to_disk(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_to_disk(path.parent)


def sync_to_disk(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def write_folder(folder: Path, *, beside: Path | None = None, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill. After the block it is renamed to `folder`; after an error it is removed.

    The temporary folder is made in `beside`, which must be on the same disk (default: the parent of `folder`). An existing `folder` stays,
    unless `replace`.
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
            # Rename first: a kill during the removal must not leave half a folder under the final name.
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
    """Remove the temporary files that a killed run left in its own folder."""
    for aside in folder.glob(f"{ASIDE}*"):
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, without secrets, whole or not at all."""
    value = redact_tree(value)  # before the escapes of JSON
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds a sweep."""
    return (folder / LEDGER).is_file()
