"""What a run leaves on the disk, written so that half a file is never taken for a whole one."""

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from lexalign import __version__, identity
from lexalign.results import Result


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(name, 0o644)
    os.replace(name, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_result(out_dir: Path, result: Result) -> None:
    """`result.json`."""
    write_json(out_dir / "result.json", dataclasses.asdict(result))


def read_result(out_dir: Path) -> Result | None:
    """The result a run left in its folder; None where there is none."""
    path = out_dir / "result.json"
    return Result(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def write_manifest(artifact: Path, facts: dict[str, Any]) -> None:
    """`manifest.json`, last: sha256 of every file of the artifact, and what it was made of."""
    files = sorted(path for path in artifact.rglob("*") if path.is_file() and path.name != "manifest.json")
    manifest = {
        "lexalign": __version__,
        "git_commit": identity.git_commit(),
        "versions": identity.versions(),
        **facts,
        "files": {str(path.relative_to(artifact)): {"sha256": identity.file_digest(path), "bytes": path.stat().st_size} for path in files},
    }
    write_json(artifact / "manifest.json", manifest)


def read_manifest(artifact: Path) -> dict[str, Any]:
    """The manifest of an artifact."""
    return json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))


def damage(artifact: Path) -> str | None:
    """What is wrong with an artifact's files, held against its manifest; None where it is whole."""
    if not (artifact / "manifest.json").is_file():
        return f"{artifact} holds no manifest.json"
    for name, facts in read_manifest(artifact)["files"].items():
        path = artifact / name
        if not path.is_file():
            return f"{path} is missing"
        if identity.file_digest(path) != facts["sha256"]:
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
