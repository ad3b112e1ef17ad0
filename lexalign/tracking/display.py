"""Settings, tags and artifact links in a form that a tracker's pages can search, filter and group by."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexalign.config.secrets import redact_tree

MANIFEST = "manifest.json"
MAX_TAG = 64
"""Maximum length of a W&B tag in characters."""
NOT_TAGGED = ("output_dir=", "store=", "tracking", "hydra", "sweep.", "sweep=", "resume", "verbose=")
"""Prefixes of the overrides that become no tag: they say where a run is stored and how it is watched."""
MAX_TEXT = 500
"""Maximum length in characters of a list that is shown as one text."""


def make_filterable(node: Any) -> Any:
    """Turn settings into groups of single values: a list becomes one text, a list of groups becomes a group with the keys 0, 1, ….

    W&B filters by `config.method.beta`, and cannot look into a list.
    """
    if isinstance(node, Mapping):
        return {str(key): make_filterable(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        if any(isinstance(item, (Mapping, list, tuple)) for item in node):
            return {str(number): make_filterable(item) for number, item in enumerate(node)}
        return shorten(", ".join("null" if item is None else str(item) for item in node), MAX_TEXT)
    return node if node is None or isinstance(node, (bool, int, float, str)) else str(node)


def flatten(node: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Flatten groups of single values into one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{where}{key}.") if isinstance(value, Mapping) else {f"{where}{key}": value}
    return flat


def make_tags(typed: Iterable[str]) -> list[str]:
    """Make tags from the typed overrides: each once, without those that begin with a prefix in NOT_TAGGED."""
    overrides = [override for override in typed if not override.startswith(NOT_TAGGED)]
    return list(dict.fromkeys(shorten(override, MAX_TAG) for override in overrides))


def shorten(text: str, most: int) -> str:
    """Cut a text to at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def list_columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """List the keys of all rows, in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


@dataclass(frozen=True, kw_only=True)
class ArtifactLink:
    """The name of an artifact for a tracker. It is the same for the run that made it and for a run that starts from it."""

    name: str
    """Stage and method of the run that made it, as in align-dpo."""
    alias: str
    """First characters of the manifest's digest, which covers every file."""
    manifest: Path
    facts: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "ArtifactLink | None":
        """Read the link to an artifact's folder; None if it has no manifest, as a model from the hub."""
        path = folder.absolute() / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            stage, method = manifest["settings"]["stage"]["name"], manifest["settings"]["method"]["name"]
            stage = "export" if "exported" in manifest else stage  # the merged model needs another name than its adapter
        except (OSError, ValueError, KeyError, TypeError):
            return None
        digest = str(manifest.get("sha256", ""))
        size = sum(file["bytes"] for file in manifest["files"].values())
        facts = {"folder": str(folder.absolute()), "bytes": size, "files": len(manifest["files"]), "manifest_sha256": digest}
        return cls(name=f"{stage}-{method}", alias=digest[:12] or "unknown", manifest=path, facts=redact_tree(facts))
