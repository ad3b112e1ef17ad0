"""Replace names of earlier versions: in manifests, in `config.yaml`, in users' files and on the command line.

A name stays here as long as a run folder may hold it. Each replacement is reported once, in one line.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from lexalign.config import targets
from lexalign.config.loading import CONF_ONLY, CompositionError

KEYS = {"method.knobs": "method.settings_class"}
"""Settings that were renamed."""
MODULES = {
    "lexalign.schema": "lexalign.config.schema",
    "lexalign.tracking.none": "lexalign.tracking",
    "lexalign.tracking.local_pages": "lexalign.tracking",
    "lexalign.tracking.weights_and_biases": "lexalign.tracking",
    "lexalign.rewards.model": "lexalign.rewards",
}
"""Modules that were moved. The names in them did not change."""
PATHS = {"lexalign.stages.align.run": "lexalign.stages.train.run", "lexalign.stages.sft.run": "lexalign.stages.train.run"}
"""Functions and classes that were renamed."""
TRAINERS = {
    "lexalign.trainers.dpo.DPOTrainer": "dpo",
    "lexalign.trainers.flow.FlowTrainer": "gdpo_flow",
    "lexalign.trainers.gdpo.GDPOTrainer": "gdpo",
    "lexalign.trainers.gdpo_flow.FlowTrainer": "gdpo_flow",
    "lexalign.trainers.gdpo_soft.ConservativeTrainer": "cdpo_soft",
    "lexalign.trainers.gdpo_soft.GeometricTrainer": "gdpo_soft",
    "lexalign.trainers.grpo.GDPOTrainer": "gdpo_rl",
    "lexalign.trainers.grpo.GRPOTrainer": "grpo",
    "lexalign.trainers.kto.KTOTrainer": "kto",
    "lexalign.trainers.reference_free.CPOTrainer": "cpo",
    "lexalign.trainers.reference_free.ORPOTrainer": "orpo",
    "lexalign.trainers.reference_free.SimPOTrainer": "simpo",
    "lexalign.trainers.sft.SFTTrainer": "lora",
    "lexalign.trainers.soft.ConservativeTrainer": "cdpo_soft",
    "lexalign.trainers.soft.GeometricTrainer": "gdpo_soft",
}
"""Trainers of earlier versions, each with the method whose file names the new trainer."""
PATH_KEYS = (*targets.KEYS, "target")
"""Keys whose values are dotted paths. A manifest has the key target where settings have _target_."""
said: set[str] = set()
"""Lines that this process has already printed."""


def say_renamed(notes: Sequence[str]) -> None:
    """Print on stderr which names are new, each once in a process."""
    for line in notes:
        if line not in said:
            said.add(line)
            print(line, file=sys.stderr)


def rename_override(override: str) -> str:
    """An override with its current key."""
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    if name not in KEYS:
        return override
    say_renamed([f"{name}: is called {KEYS[name]} now; type {KEYS[name]}={value}"])
    return f"{key.removesuffix(name)}{KEYS[name]}{equals}{value}"


def rename_settings(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A tree of settings with the current names, and a line for each old name."""
    notes: list[str] = []
    method = tree.get("method")
    name = str(method.get("name")) if isinstance(method, Mapping) else None

    def walk(node: Any, where: str) -> Any:
        if isinstance(node, (list, tuple)):
            return [walk(item, f"{where}[{i}]") for i, item in enumerate(node)]
        if not isinstance(node, Mapping):
            return node
        new_node: dict[str, Any] = {}
        for key, value in node.items():
            full = f"{where}.{key}" if where else str(key)
            is_old = full in KEYS
            if is_old:
                notes.append(f"{full}: is called {KEYS[full]} now")
                full = KEYS[full]
            key = full.rpartition(".")[2] if is_old else key
            if key in new_node and not is_old:
                continue  # the user's value with the old name has priority over the value in the method's file
            path = rename_path(value, name) if key in PATH_KEYS and isinstance(value, str) else value
            if path != value:
                notes.append(f"{full}={value}: is {path} now")
            new_node[key] = walk(path, full)
        return new_node

    return walk(tree, ""), notes


def rename_path(path: str, method: str | None) -> str:
    """The current dotted path of a class or function; the same path if it did not change."""
    if path in PATHS:
        return PATHS[path]
    if path in TRAINERS:
        return find_trainer(method, TRAINERS[path]) if targets.explain_wrong_target(path, [targets.OWN_PACKAGE]) else path
    module, _, name = path.rpartition(".")
    for old, new in MODULES.items():
        if module == old or module.startswith(f"{old}."):
            return f"{new}.{name}"
    return path


def find_trainer(method: str | None, default: str) -> str:
    """The `_target_` in the file of a method, or of `default` if conf/ has no file for the method."""
    name = method if method in CONF_ONLY.list_options("method") else default
    file = CONF_ONLY.loader.repository.load_config(f"method/{name}")
    assert file is not None
    return str(OmegaConf.select(file.config, "method._target_"))


def complete_settings(tree: Mapping[str, Any], only: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recorded tree with today's defaults for settings that it lacks, and these settings by key.

    With `only`, a current tree, only settings in that tree are added.
    """
    names = {"stage": "name", "method": "name", "adapter": "kind"}
    words = [f"{group}={tree[group][name]}" for group, name in names.items() if name in (tree.get(group) or {})]
    try:
        default = CONF_ONLY.compose(words)
    except (CompositionError, KeyError):  # a method of the user's own
        default = CONF_ONLY.compose([])
    added_settings: dict[str, Any] = {}

    def fill(node: Mapping[str, Any], defaults: Mapping[str, Any], allowed_keys: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
        new_node = dict(node)
        for key, value in defaults.items():
            full = f"{where}.{key}" if where else str(key)
            allowed_below = allowed_keys.get(key) if allowed_keys is not None else None
            if allowed_keys is not None and key not in allowed_keys:
                continue
            if key not in new_node:
                new_node[key] = added_settings[full] = value
            elif isinstance(value, Mapping) and isinstance(new_node[key], Mapping):
                new_node[key] = fill(new_node[key], value, allowed_below if isinstance(allowed_below, Mapping) else None, full)
        return new_node

    all_defaults = OmegaConf.to_container(OmegaConf.masked_copy(default, [str(key) for key in default if key != "hydra"]), resolve=False)
    assert isinstance(all_defaults, dict)
    method, recorded_method = all_defaults.get("method"), tree.get("method")
    is_own_method = (
        isinstance(method, Mapping) and isinstance(recorded_method, Mapping) and method.get("name") != recorded_method.get("name")
    )
    skipped_keys = ("experiment", "method") if is_own_method else ("experiment",)
    return fill(tree, {str(key): value for key, value in all_defaults.items() if key not in skipped_keys}, only, ""), added_settings
