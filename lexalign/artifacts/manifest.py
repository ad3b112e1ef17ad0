"""`manifest.json` of an artifact or a checkpoint: what it was made from, and the sha256 of every file."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lexalign import __version__
from lexalign.artifacts import fingerprint
from lexalign.artifacts.files import write_json
from lexalign.config.aliases import rename_settings
from lexalign.config.secrets import redact_tree

MANIFEST = "manifest.json"


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


def find_damage(folder: Path, *, digest: Callable[[Path], str] = fingerprint.digest_file) -> str | None:
    """Compare the files of an artifact or a checkpoint with its manifest; return the first damage, or None."""
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
    for path, (size, sha256) in files.items():
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size} bytes instead of {size}"
        if digest(path) != sha256:
            return f"{path} is not the file that was saved (sha256 differs)"
    return None


def find_lost_files(details: dict[str, Any]) -> str | None:
    """Return the first missing or changed file of a recorded download; None if all files are there."""
    for download in details.values():
        for file in download["files"] if isinstance(download, dict) else ():
            path = Path(download["folder"]) / file["path"]
            if not path.is_file():
                return f"{path} is missing"
            if file["sha256"] not in (None, fingerprint.digest_file(path)):
                return f"{path} is not the file that was fetched (sha256 differs)"
    return None
