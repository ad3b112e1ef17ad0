"""`manifest.json` of an artifact or a checkpoint: what it was made from, and the sha256 of every file."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lexalign import __version__
from lexalign.artifacts import fingerprint
from lexalign.artifacts.files import write_json
from lexalign.config.aliases import rename_settings
from lexalign.config.secrets import redact_tree

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
READ = {".safetensors", ".bin", ".pt", ".pth", ".json", ".jinja", ".py", ".model", ".tiktoken", ".gguf"}
"""Suffixes of files that a loader may read, so that none may be added."""
WORTH_SAYING = 1e9
"""Bytes from which a check says what it reads, and at what rate."""


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write `manifest.json`, after all other files: the facts, the sha256 of every file, and the sha256 of the manifest itself."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    manifest = redact_tree(
        {
            "lexalign": __version__,
            "git_commit": fingerprint.get_git_commit(),
            "versions": fingerprint.list_versions(),
            **facts,
            "files": {
                str(path.relative_to(folder)): {"sha256": fingerprint.digest_file(path), "bytes": path.stat().st_size} for path in files
            },
        }
    )
    write_json(folder / MANIFEST, {**manifest, "sha256": digest_manifest(manifest)})


def digest_manifest(manifest: dict[str, Any]) -> str:
    """Return the sha256 of a manifest without its own `sha256` entry."""
    text = json.dumps({key: value for key, value in manifest.items() if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact or a checkpoint, its settings by the names of now."""
    manifest = load_manifest(folder)
    if isinstance(manifest.get("settings"), dict):
        manifest["settings"], _ = rename_settings(manifest["settings"])
    return manifest


def load_manifest(folder: Path) -> dict[str, Any]:
    """The manifest as it was written."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def find_damage(folder: Path) -> str | None:
    """Compare the files of an artifact or a checkpoint with its manifest, every byte; return the first damage, or None."""
    path = folder / MANIFEST
    if not path.is_file():
        return f"{folder} holds no {MANIFEST}"
    try:
        manifest = load_manifest(folder)
        files = {folder / name: (facts["bytes"], facts["sha256"]) for name, facts in manifest["files"].items()}
        changed = manifest.get("sha256", digest_manifest(manifest)) != digest_manifest(manifest)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path} cannot be read"
    if changed:
        return f"{path} is not the file that was saved (sha256 differs)"
    for path, (size, _) in files.items():
        if not is_inside(path, folder):
            return f"{folder / MANIFEST} names a file outside of the folder"
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size} bytes instead of {size}"
    if added := [
        path for path in sorted(folder.rglob("*")) if path.suffix in READ and path.is_file() and path not in files and path.name != MANIFEST
    ]:
        return f"{added[0]} is not among the files that were saved; remove it"
    return find_changed_file({path: sha256 for path, (_, sha256) in files.items()})


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path leads to a place in a folder, without links."""
    return ".." not in path.relative_to(folder).parts if path.is_relative_to(folder) else False


def find_changed_file(files: Mapping[Path, str]) -> str | None:
    """Read every byte of the files; return the first one whose sha256 differs, or None. For many bytes, the rate is logged."""
    start, size = time.monotonic(), sum(path.stat().st_size for path in files)
    if size >= WORTH_SAYING:
        log.info("Checking %s: %.1f GB are read", next(iter(files)).parent, size / 1e9)
    for path, sha256 in files.items():
        if fingerprint.digest_bytes(path) != sha256:
            return f"{path} is not the file that was saved (sha256 differs)"
    if size >= WORTH_SAYING:
        seconds = time.monotonic() - start
        log.info("Checked %.1f GB in %.0f s (%.2f GB/s): undamaged", size / 1e9, seconds, size / 1e9 / seconds)
    return None


def find_lost_files(details: dict[str, Any]) -> str | None:
    """Return the first missing or changed file of a recorded download; None if all files are there."""
    for download in details.values():
        for file in download["files"] if isinstance(download, dict) else ():
            path = Path(download["folder"]) / file["path"]
            if not path.is_file():
                return f"{path} is missing"
            if file["sha256"] not in (None, fingerprint.digest_bytes(path)):
                return f"{path} is not the file that was fetched (sha256 differs)"
    return None
