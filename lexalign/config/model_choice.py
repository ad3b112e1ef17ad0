"""Which model is meant: `model.path=…` alone means another model than the option's, and values tuned for one model hold for no other."""

import json
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from lexalign.config.loading import CompositionError, Sources
from lexalign.config.overrides import get_key
from lexalign.config.paths import find_model
from lexalign.config.rules import trust

EMBEDDED = "embedded:tiny"
NOT_CHOSEN = "none"
"""The option of the group `model` that names no model."""
LONGEST_LINE = 8
"""Runs, each trained from the one before, that are followed back to their base."""


def follow_model(overrides: Sequence[str], sources: Sources) -> tuple[list[str], list[str]]:
    """The overrides with the options `model` and `tuned` that fit the model which they name, and what to say of that.

    An option of the group `model` stands for its own path or parent. Where the settings name another one, the option does not hold, nor
    do the values that were tuned for it: they apply to the embedded model and to what was trained from it, whatever it is called.
    Overrides that cannot be composed come back as they are; whoever composes them says why.
    """
    try:
        tree = sources.compose(overrides)
    except CompositionError:
        return list(overrides), []
    if trust.find_resolver_problems(OmegaConf.masked_copy(tree, [str(key) for key in tree if key != "hydra"])):
        return list(overrides), []  # refused later; nothing of it is resolved
    option = OmegaConf.select(tree, "hydra.runtime.choices.model")
    path, parent = (OmegaConf.select(tree, f"model.{name}") for name in ("path", "parent"))
    named = f"model.path={path}" if path else f"model.parent={parent}"
    own = read_own(option, sources)
    if not (path or parent) or (path, parent) == own:
        return list(overrides), []
    adjusted, notes = list(overrides), []
    if option != NOT_CHOSEN and holds_other(own, path, parent):
        adjusted = [*(override for override in overrides if get_key(override) != "model"), f"model={NOT_CHOSEN}"]
        if path and OmegaConf.select(tree, "model.parent") == own[1]:  # the option's, which nobody asked for any more
            parent = None
        if any(get_key(override) == "model" for override in overrides):
            notes.append(f"{named} is another model than model={option}: nothing of model={option} is used")
    method = OmegaConf.select(tree, "method.name")
    identity = identify(path, parent, sources)
    tuned = f"{identity}_{method}"
    if identity and method and tuned in sources.list_options("tuned"):
        adjusted.append(f"tuned={tuned}")
        notes.append(f"{named} comes from the embedded model: the values of tuned={tuned} apply")
    return adjusted, notes


def read_own(option: str | None, sources: Sources) -> tuple[str | None, str | None]:
    """The path and the parent that an option of the group `model` stands for."""
    file = sources.loader.repository.load_config(f"model/{option}") if option else None
    config = file.config if file is not None else DictConfig({})
    return OmegaConf.select(config, "path"), OmegaConf.select(config, "parent")


def holds_other(own: tuple[str | None, str | None], path: str | None, parent: str | None) -> bool:
    """Whether the settings name another model than an option of its own does: a path beside the embedded model, or another parent."""
    return EMBEDDED in own and path != EMBEDDED or own[1] is not None and (path is not None or parent != own[1])


def identify(path: str | None, parent: str | None, sources: Sources, *, most: int = LONGEST_LINE) -> str | None:
    """`tiny` for the embedded model, `tiny_sft` for what was trained from it, None for any other."""
    if path:
        return "tiny" if path == EMBEDDED else "tiny_sft" if find_base(path) == EMBEDDED else None
    if not most:  # experiments that descend from each other are refused later
        return None
    try:
        tree = sources.compose([f"experiment={parent}"])
    except CompositionError:
        return None
    above, parent = (OmegaConf.select(tree, f"model.{name}") for name in ("path", "parent"))
    return "tiny_sft" if identify(above, parent, sources, most=most - 1) else None


def find_base(path: str) -> str | None:
    """The path of the model that a run was trained from in the end; None where nothing is known of one."""
    for _ in range(LONGEST_LINE):
        place = find_model(path)
        if place.kind != "run" or place.path is None:
            return path
        try:
            manifest = json.loads((place.path / "manifest.json").read_text(encoding="utf-8"))
            base = (manifest.get("base") or manifest.get("model") or {}).get("path")
        except (OSError, ValueError, AttributeError):
            return None
        if not isinstance(base, str):
            return None
        path = base
    return None
