"""Names of earlier versions and what they are called now: in manifests, in `config.yaml`, in users' files and on the command line.

A name stays here for as long as a run folder may hold it. Each one that is met is said once, in one line.
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
"""Modules that moved with the names of what they hold."""
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
"""Trainers of earlier versions, each with a method whose file names its successor."""
PATH_KEYS = (*targets.KEYS, "target")
"""Keys whose values are dotted paths; a manifest says target where settings say _target_."""
said: set[str] = set()
"""What this process has said already."""


def say_renamed(renamed: Sequence[str]) -> None:
    """Say on stderr what goes by another name now, each once in a process."""
    for line in renamed:
        if line not in said:
            said.add(line)
            print(line, file=sys.stderr)


def rename_override(override: str) -> str:
    """An override with the key that it has now."""
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    if name not in KEYS:
        return override
    say_renamed([f"{name}: is called {KEYS[name]} now; type {KEYS[name]}={value}"])
    return f"{key.removesuffix(name)}{KEYS[name]}{equals}{value}"


def rename_settings(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A tree of settings with the names of now, and a line for each that had another."""
    renamed: list[str] = []
    method = tree.get("method")
    name = str(method.get("name")) if isinstance(method, Mapping) else None

    def walk(node: Any, where: str) -> Any:
        if isinstance(node, (list, tuple)):
            return [walk(item, f"{where}[{i}]") for i, item in enumerate(node)]
        if not isinstance(node, Mapping):
            return node
        fresh: dict[str, Any] = {}
        for key, value in node.items():
            full = f"{where}.{key}" if where else str(key)
            is_old = full in KEYS
            if is_old:
                renamed.append(f"{full}: is called {KEYS[full]} now")
                full = KEYS[full]
            key = full.rpartition(".")[2] if is_old else key
            if key in fresh and not is_old:
                continue  # what the method's file says, under a user's own value by the earlier name
            path = rename_path(value, name) if key in PATH_KEYS and isinstance(value, str) else value
            if path != value:
                renamed.append(f"{full}={value}: is {path} now")
            fresh[key] = walk(path, full)
        return fresh

    return walk(tree, ""), renamed


def rename_path(path: str, method: str | None) -> str:
    """The dotted path under which a class or function is found now; the path itself where it has no other."""
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
    """The `_target_` in the file of a method, or of `default` where there is no such file of ours."""
    chosen = method if method in CONF_ONLY.list_options("method") else default
    file = CONF_ONLY.loader.repository.load_config(f"method/{chosen}")
    assert file is not None
    return str(OmegaConf.select(file.config, "method._target_"))


def complete_settings(tree: Mapping[str, Any], only: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recorded tree with the settings that did not exist when it was recorded, at today's defaults; and these, by key.

    With `only`, a tree of now: no settings but those it holds.
    """
    names = {"stage": "name", "method": "name", "adapter": "kind"}
    words = [f"{group}={tree[group][name]}" for group, name in names.items() if name in (tree.get(group) or {})]
    try:
        default = CONF_ONLY.compose(words)
    except (CompositionError, KeyError):  # a method of the user's own
        default = CONF_ONLY.compose([])
    added: dict[str, Any] = {}

    def fill(node: Mapping[str, Any], ours: Mapping[str, Any], wanted: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
        fresh = dict(node)
        for key, value in ours.items():
            full = f"{where}.{key}" if where else str(key)
            below = wanted.get(key) if wanted is not None else None
            if wanted is not None and key not in wanted:
                continue
            if key not in fresh:
                fresh[key] = added[full] = value
            elif isinstance(value, Mapping) and isinstance(fresh[key], Mapping):
                fresh[key] = fill(fresh[key], value, below if isinstance(below, Mapping) else None, full)
        return fresh

    plain = OmegaConf.to_container(OmegaConf.masked_copy(default, [str(key) for key in default if key != "hydra"]), resolve=False)
    assert isinstance(plain, dict)
    method, recorded = plain.get("method"), tree.get("method")
    own = isinstance(method, Mapping) and isinstance(recorded, Mapping) and method.get("name") != recorded.get("name")
    left_out = ("experiment", "method") if own else ("experiment",)
    return fill(tree, {str(key): value for key, value in plain.items() if key not in left_out}, only, ""), added
