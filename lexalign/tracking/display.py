"""What a tracker is shown, in a form its pages can search, filter and group by."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
MAX_TAG = 64
"""Characters that W&B allows a tag."""
UNTOLD = ("output_dir=", "store=", "tracking", "hydra", "sweep.", "sweep=", "resume", "verbose=")
"""How overrides begin that say where and how a run is kept and watched."""
MAX_TEXT = 500
"""Characters of a list that is shown as one text."""


def make_filterable(node: Any) -> Any:
    """Settings as groups of single values: a list becomes one text, a list of groups a group with the numbers 0, 1, … as keys.

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
    """Groups of single values as one level of dotted keys."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flatten(value, f"{where}{key}.") if isinstance(value, Mapping) else {f"{where}{key}": value}
    return found


def make_tags(typed: Iterable[str]) -> list[str]:
    """Tags of what was typed: each override once, but for those that begin as one of UNTOLD."""
    told = [override for override in typed if not override.startswith(UNTOLD)]
    return list(dict.fromkeys(shorten(override, MAX_TAG) for override in told))


def shorten(text: str, most: int) -> str:
    """The text, its end cut where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def list_columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all rows, in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


@dataclass(frozen=True, kw_only=True)
class ArtifactLink:
    """What names an artifact of ours for a tracker: the same for the run that made it and for one that starts from it."""

    name: str
    """Stage and method of the run that made it, as in align-dpo."""
    alias: str
    """Begin of the manifest's digest: it vouches for every file."""
    manifest: Path
    facts: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> "ArtifactLink | None":
        """The link to an artifact's folder; None where there is no manifest, as with a model from the hub."""
        path = folder.absolute() / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            stage, method = manifest["settings"]["stage"]["name"], manifest["settings"]["method"]["name"]
            stage = "export" if "exported" in manifest else stage  # merged, and told apart from the adapter that it was
        except (OSError, ValueError, KeyError, TypeError):
            return None
        digest = str(manifest.get("sha256", ""))
        size = sum(file["bytes"] for file in manifest["files"].values())
        facts = {"folder": str(folder.absolute()), "bytes": size, "files": len(manifest["files"]), "manifest_sha256": digest}
        return cls(name=f"{stage}-{method}", alias=digest[:12] or "unknown", manifest=path, facts=facts)
