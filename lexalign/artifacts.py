"""What a run leaves on the disk, written so that half a file is never taken for a whole one."""

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lexalign import __version__, identity
from lexalign.results import Result

MANIFEST = "manifest.json"
RESULT = "result.json"
ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's name of what it says of an adapter."""
ASIDE = ".tmp-"
"""How the names of files and folders begin that are not whole yet; a killed run leaves them behind."""


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f"{ASIDE}{uuid.uuid4().hex}-{path.name}"
    try:
        aside.write_text(text, encoding="utf-8")
        sync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole_folder(folder: Path, *, beside: Path | None = None, replace: bool = False) -> Iterator[Path]:
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
            sync(path)
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
        sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def forget_unfinished(folder: Path) -> None:
    """Remove what a killed run left half written in its own folder."""
    for aside in folder.glob(f"{ASIDE}*"):
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_result(out_dir: Path, result: Result) -> None:
    """`result.json`."""
    write_json(out_dir / RESULT, dataclasses.asdict(result))


def read_result(out_dir: Path) -> Result | None:
    """The result a run left in its folder; None where there is none."""
    path = out_dir / RESULT
    return Result(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """`manifest.json`, last: sha256 of every file of the folder and of the manifest itself, and what the folder was made of."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    manifest = {
        "lexalign": __version__,
        "git_commit": identity.git_commit(),
        "versions": identity.versions(),
        **facts,
        "files": {str(path.relative_to(folder)): {"sha256": identity.file_digest(path), "bytes": path.stat().st_size} for path in files},
    }
    write_json(folder / MANIFEST, {**manifest, "sha256": digest_of(manifest)})


def digest_of(manifest: dict[str, Any]) -> str:
    """sha256 of a manifest as it is read back, but for that entry itself."""
    text = json.dumps({key: value for key, value in manifest.items() if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact or a checkpoint."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def damage(folder: Path, *, digest: Callable[[Path], str] = identity.file_digest) -> str | None:
    """What is wrong with the files of an artifact or a checkpoint, held against its manifest; None where it is whole."""
    path = folder / MANIFEST
    if not path.is_file():
        return f"{folder} holds no {MANIFEST}"
    try:
        manifest = read_manifest(folder)
        files = {folder / name: (facts["bytes"], facts["sha256"]) for name, facts in manifest["files"].items()}
        changed = manifest.get("sha256", digest_of(manifest)) != digest_of(manifest)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path} cannot be read"
    if changed:
        return f"{path} is not the file that was saved (sha256 differs)"
    for path, (size, sha256) in files.items():
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size} bytes instead of {size}"
        if digest(path) != sha256:
            return f"{path} is not the file that was saved (sha256 differs)"
    return None


def lost(details: dict[str, Any]) -> str | None:
    """What is missing or changed of the files that a download recorded; None where all are there."""
    for found in details.values():
        for file in found["files"] if isinstance(found, dict) else ():
            path = Path(found["folder"]) / file["path"]
            if not path.is_file():
                return f"{path} is missing"
            if file["sha256"] not in (None, identity.file_digest(path)):
                return f"{path} is not the file that was fetched (sha256 differs)"
    return None
