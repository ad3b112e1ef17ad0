"""Compare the settings that a run started with and the settings of the command that resumes it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lexalign.config.aliases import complete_settings
from lexalign.config.parsing import format_value, suggest_nearest
from lexalign.errors import ConfigError

UNMEASURED = ("evaluate",)
"""Groups that decide what is measured, not what is trained."""
CONTENT = ("model", "data")
ABSENT = "(absent)"


def list_compared(made_of: Mapping[str, Any], *, with_evaluation: bool) -> dict[str, Any]:
    """Return every value that must not change, by its key; `model` and `data` hold the digests of their files."""
    leaves = dict(list_leaves(json.loads(json.dumps(made_of["settings"], default=str))))
    if not with_evaluation:
        leaves = {key: value for key, value in leaves.items() if key.split(".")[0] not in UNMEASURED}
    for name in CONTENT:
        content = {key: made_of[name][key] for key in ("files", "repo", "revision", "tokenizer") if key in made_of[name]}
        if content:
            leaves[name] = content
    return leaves


def list_leaves(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for each leaf of a tree of settings."""
    if not isinstance(node, Mapping):
        yield where, node
        return
    for key, value in node.items():
        name = "_target_" if key == "target" else str(key)
        yield from list_leaves(value, f"{where}.{name}" if where else name)


def diff_settings(before: Mapping[str, Any], now: Mapping[str, Any], *, with_evaluation: bool = False) -> dict[str, str]:
    """Compare the described inputs of two runs; return the differences as key: "old -> new"."""
    settings = complete_settings(before["settings"], only=now["settings"])[0]  # what did not exist then was as it is by default now
    before = {**before, "settings": settings}
    old, new = list_compared(before, with_evaluation=with_evaluation), list_compared(now, with_evaluation=with_evaluation)
    if "model" not in old or "model" not in new:  # the parent is missing, so it cannot be compared
        old.pop("model", None)
        new.pop("model", None)
    return {
        key: describe_change(old.get(key, ABSENT), new.get(key, ABSENT), content=key in CONTENT)
        for key in dict.fromkeys([*old, *new])
        if old.get(key, ABSENT) != new.get(key, ABSENT)
    }


def describe_change(old: Any, new: Any, *, content: bool) -> str:
    """Describe a change in words; for files, name those that changed."""
    if content and isinstance(old, dict) and isinstance(new, dict) and "files" in old and "files" in new:
        names = {*old["files"], *new["files"]}
        other = sorted(name for name in names if old["files"].get(name) != new["files"].get(name))
        if other:
            parts = [f"{name} {shorten_digest(old['files'].get(name))} -> {shorten_digest(new['files'].get(name))}" for name in other[:3]]
            return ", ".join(parts) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
    return f"{format_value(old) if not content else old} -> {format_value(new) if not content else new}"


def shorten_digest(digest: str | None) -> str:
    """Return the first characters of a digest."""
    return digest[:12] if digest else ABSENT


def is_covered(allowed: Sequence[str], key: str) -> bool:
    """Return whether `resume_allow` names a key or one of its groups."""
    return any(key == name or key.startswith(f"{name}.") for name in allowed)


def refuse_differences(differences: Mapping[str, str], *, allowed: Sequence[str], opening: str) -> None:
    """Raise ConfigError with every difference that `allowed` does not cover. `opening` begins the message."""
    refused = {key: change for key, change in differences.items() if not is_covered(allowed, key)}
    if refused:
        raise ConfigError(
            [
                f"{opening} with other settings:",
                *(f"  {key}: {change}" for key, change in refused.items()),
                f"  type the old ones or another output_dir; to go on with the new ones: 'resume_allow=[{','.join([*allowed, *refused])}]'",
            ]
        )


def find_unknown_keys(names: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """Return the problems of the names in `resume_allow`: each must be a key or a group that is compared."""
    keys = [key for key, _ in list_leaves(settings) if key.split(".")[0] not in UNMEASURED]
    groups = {".".join(key.split(".")[:depth]) for key in keys for depth in range(1, key.count(".") + 1)}
    choices = [*keys, *sorted({*groups, *CONTENT})]
    return [
        f"resume_allow: {name} is nothing that a resumed run is compared by{suggest_nearest(name, choices)}; leave it out"
        for name in names
        if name not in choices
    ]
