"""Find which model the settings mean. `model.path=…` alone replaces the model of the option, and tuned values fit only one model."""

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
"""The largest number of runs, each trained from the one before, on the way back to the base."""


def follow_model(overrides: Sequence[str], sources: Sources) -> tuple[list[str], list[str]]:
    """The overrides with the options `model` and `tuned` that fit the named model, and notes about the changes.

    An option of the group `model` means its own path or parent. If the settings name another path or parent, the option does not apply.
    Tuned values apply to the embedded model and to models trained from it, with any name. Overrides that cannot be composed are returned
    unchanged; a later composition reports the reason.
    """
    try:
        tree = sources.compose(overrides)
    except CompositionError:
        return list(overrides), []
    if trust.find_resolver_problems(OmegaConf.masked_copy(tree, [str(key) for key in tree if key != "hydra"])):
        return list(overrides), []  # refused later, and not resolved here
    option = OmegaConf.select(tree, "hydra.runtime.choices.model")
    path, parent = (OmegaConf.select(tree, f"model.{name}") for name in ("path", "parent"))
    model_text = f"model.path={path}" if path else f"model.parent={parent}"
    option_model = read_own(option, sources)
    if not (path or parent) or (path, parent) == option_model:
        return list(overrides), []
    new_overrides, notes = list(overrides), []
    if option != NOT_CHOSEN and holds_other(option_model, path, parent):
        new_overrides = [*(override for override in overrides if get_key(override) != "model"), f"model={NOT_CHOSEN}"]
        if path and OmegaConf.select(tree, "model.parent") == option_model[1]:  # the parent belongs to the option, which no longer applies
            parent = None
        if any(get_key(override) == "model" for override in overrides):
            notes.append(f"{model_text} is another model than model={option}: nothing of model={option} is used")
    method = OmegaConf.select(tree, "method.name")
    identity = identify(path, parent, sources)
    tuned_option = f"{identity}_{method}"
    if identity and method and tuned_option in sources.list_options("tuned"):
        new_overrides.append(f"tuned={tuned_option}")
        notes.append(f"{model_text} comes from the embedded model: the values of tuned={tuned_option} apply")
    return new_overrides, notes


def read_own(option: str | None, sources: Sources) -> tuple[str | None, str | None]:
    """The path and the parent of an option of the group `model`."""
    file = sources.loader.repository.load_config(f"model/{option}") if option else None
    config = file.config if file is not None else DictConfig({})
    return OmegaConf.select(config, "path"), OmegaConf.select(config, "parent")


def holds_other(own: tuple[str | None, str | None], path: str | None, parent: str | None) -> bool:
    """Whether the settings name another model than the option: a path other than the embedded model's, or another parent."""
    return EMBEDDED in own and path != EMBEDDED or own[1] is not None and (path is not None or parent != own[1])


def identify(path: str | None, parent: str | None, sources: Sources, *, most: int = LONGEST_LINE) -> str | None:
    """`tiny` for the embedded model, `tiny_sft` for a model trained from it, None for any other model."""
    if path:
        return "tiny" if path == EMBEDDED else "tiny_sft" if find_base(path) == EMBEDDED else None
    if not most:  # experiments that descend from each other are refused later
        return None
    try:
        tree = sources.compose([f"experiment={parent}"])
    except CompositionError:
        return None
    parent_path, parent = (OmegaConf.select(tree, f"model.{name}") for name in ("path", "parent"))
    return "tiny_sft" if identify(parent_path, parent, sources, most=most - 1) else None


def find_base(path: str) -> str | None:
    """The path of the first model in the line of runs that led to this one; None if it is unknown."""
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
