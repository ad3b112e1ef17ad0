"""Check untrusted files: the settings that they may not set, and the allowed interpolations.

The files below conf/ and those of installed packages are trusted. A file of `--config-dir`, or of a path that Hydra searches, is not, and
neither is the run folder that `reproduce=` names. A setting that can run code, read the environment, name an address, delete, or write
outside of the run's folder is marked `TypedOnly` in the schema. It must be typed. A trusted file can be copied below conf/.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lexalign.config import schema
from lexalign.config.loading import CONF_ONLY, CompositionError, Sources
from lexalign.config.overrides import get_key, list_typed_keys, parse_overrides
from lexalign.config.parsing import TypedOnly, format_value

SHOWN = 80
"""Maximum length in characters of a value in a message."""
OWN_HYDRA = ("hydra.overrides", "hydra.runtime", "hydra.job.override_dirname", "hydra.job.num", "hydra.job.id", "hydra.mode")
"""Parts of Hydra's node that follow from the command line."""


@cache
def list_typed_only() -> dict[str, str]:
    """Return every setting that is marked `TypedOnly`, by its key, with the reason."""
    return dict(walk_marks(schema.Experiment, ""))


def walk_marks(cls: type, where: str) -> Iterator[tuple[str, str]]:
    """Yield (key, reason) of each marked field of a dataclass and of the dataclasses in its fields."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        key, hint = f"{where}{field.name}", hints[field.name]
        if typing.get_origin(hint) is typing.Annotated:
            yield from ((key, mark.because) for mark in hint.__metadata__ if isinstance(mark, TypedOnly))
        for part in (hint, *typing.get_args(hint)):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from walk_marks(part, f"{key}.")


def is_searched_elsewhere(overrides: Sequence[str], sources: Sources) -> bool:
    """Return whether files may come from a place that is not trusted."""
    return bool(sources.folders) or any(get_key(override) == "hydra.searchpath" for override in overrides)


def find_untrusted_settings(tree: DictConfig, overrides: Sequence[str], sources: Sources) -> list[str]:
    """Return the problems of marked settings, and of settings of Hydra, that an untrusted file has changed.

    The tree is compared with a tree that is composed without such files, so every way of changing a setting is found.
    """
    if not is_searched_elsewhere(overrides, sources):
        return []
    trusted_tree = compose_trusted(overrides)
    typed_keys = list_typed_values(overrides)
    where = f"a file of {', '.join(sources.folders) or 'hydra.searchpath'}"
    problems = []
    for key, reason in list_typed_only().items():
        value = select_raw(tree, key)
        if value is not None and value != select_raw(trusted_tree, key) and not is_typed(key, typed_keys):
            problems.append(f"{key}={shorten(value)}: {explain_refusal(key, reason, where)}")
    if tree.get("hydra") is not None:
        old_values, new_values = (dict(walk_leaves(to_plain(node.get("hydra")), "hydra")) for node in (trusted_tree, tree))
        problems += [
            f"{key}: {explain_refusal(key, 'Hydra can run code and write files', where)}"
            for key, value in new_values.items()
            if old_values.get(key, ...) != value and not key.startswith(OWN_HYDRA) and not is_typed(key, typed_keys)
        ]
    return problems


def explain_refusal(key: str, because: str, where: str) -> str:
    """Return why a setting must be typed, and what to do."""
    return f"is set by {where} and may only be typed, because {because}; type {key}=<value>, or copy the file below conf/ if you trust it"


def compose_trusted(overrides: Sequence[str]) -> DictConfig:
    """Compose the typed choices of groups from trusted files alone."""
    choices = []
    for override in parse_overrides(overrides):
        group = override.key_or_group
        if CONF_ONLY.is_group(group) and not override.is_delete() and override.value() in CONF_ONLY.list_options(group):
            choices.append(f"{group}={override.value()}")
    try:
        return CONF_ONLY.compose(choices)
    except CompositionError:
        return CONF_ONLY.compose([])


def list_typed_values(overrides: Sequence[str]) -> frozenset[str]:
    """Return the typed keys without choices of groups, because the files of groups may be untrusted."""
    values = [o.input_line for o in parse_overrides(overrides) if not (CONF_ONLY.is_group(o.key_or_group) and isinstance(o.value(), str))]
    choices = {o.key_or_group for o in parse_overrides(overrides) if o.key_or_group.startswith("hydra/")}
    return list_typed_keys([str(value) for value in values]) | {choice.replace("/", ".") for choice in choices}


def is_typed(key: str, typed: frozenset[str]) -> bool:
    """Return whether a key, or a group that contains it, was typed."""
    return any(key == name or key.startswith(f"{name}.") for name in typed)


def find_untrusted_overrides(overrides: Sequence[str], where: str) -> list[str]:
    """Return the problems of overrides in a file (of a parent, or of the points of a sweep) that set values that must be typed."""
    problems = []
    for override in parse_overrides(overrides):
        group = override.key_or_group
        if group.startswith("hydra") or (group == "cache" and override.value() in ("clear", "show")):
            problems.append(f"{where}: {override.input_line}: may not stand in a file; type it")
        elif not (CONF_ONLY.is_group(group) and isinstance(override.value(), str)):
            leaves = list_typed_keys([str(override.input_line)]) or {group}
            for key, reason in list_typed_only().items():
                if any(key == leaf or key.startswith(f"{leaf}.") or leaf.startswith(f"{key}.") for leaf in leaves):
                    problems.append(f"{where}: {key}: may not stand in a file, because {reason}; type {key}=<value>")
    return problems


def find_untrusted_records(tree: Mapping[str, Any], experiment: schema.Experiment) -> list[str]:
    """Return the problems of marked settings in the tree that a run folder recorded. Values typed with `reproduce=` are allowed."""
    record, base = OmegaConf.create(dict(tree)), CONF_ONLY.compose([])
    problems = []
    for key, reason in list_typed_only().items():
        value, typed_value = select_raw(record, key), get_value(experiment, key)
        if value is not None and value not in (select_raw(base, key), typed_value):
            problems.append(f"{key}={shorten(value)}: is recorded in the run folder and may only be typed, because {reason}; type it too")
    return problems


def get_value(experiment: schema.Experiment, key: str) -> Any:
    """Return the value of a dotted key in an experiment."""
    value: Any = experiment
    for name in key.split("."):
        value = getattr(value, name, None)
    return value


def select_raw(tree: DictConfig, key: str) -> Any:
    """Return the value of a key without resolving it; None if there is none."""
    node: Any = to_plain(tree)
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def to_plain(node: Any) -> Any:
    """Return a node as plain dicts and lists, unresolved."""
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def walk_leaves(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of each value that is not a group."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from walk_leaves(value, f"{where}.{key}")
    else:
        yield where, node


def shorten(value: Any) -> str:
    """Return a value in the form of the command line, cut after `SHOWN` characters."""
    text = format_value(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


KEY = r"[\w.@/\-\[\]]+"
CHOICES = r"runtime\.choices\.[\w/@.\-]+|job\.(?:num|id|name|config_name|override_dirname)"
PLAIN = re.compile(
    rf"\$\{{\s*(?!hydra\.){KEY}\s*\}}|\$\{{\s*hydra[.:]\s*(?:{CHOICES})\s*\}}"
    r"|\$\{\s*(?:now|oc\.select|oc\.dict\.keys|oc\.dict\.values|oc\.deprecated)\s*:[^${}\\]*\}"
)
"""Interpolations that settings may use: another key, Hydra's choices, or one of these resolvers with a literal argument. Nothing may be
nested or escaped."""
NAME = re.compile(r"\$\{\s*([^:{}]*?)\s*[:}]")


def find_resolver_problems(node: Any, where: str = "") -> list[str]:
    """Return the problems of interpolations. Settings may read other settings, the time and Hydra's choices, nothing else."""
    node = to_plain(node)
    if isinstance(node, Mapping):
        parts = [(f"{where}.{key}" if where else str(key), value) for key, value in node.items()]
        return [problem for key, value in parts for problem in find_resolver_problems(value, key)]
    if isinstance(node, list):
        return [problem for i, value in enumerate(node) for problem in find_resolver_problems(value, f"{where}[{i}]")]
    if not isinstance(node, str) or "${" not in node:
        return []
    remaining_text = PLAIN.sub("", node)
    if "${" not in remaining_text and "\\${" not in node:
        return []
    return [
        f"{where}: ${{{shorten(name)}{':' if name else ''}…}} may not be used in settings; type the value, or let your shell fill it in"
        for name in dict.fromkeys(NAME.findall(remaining_text)) or [""]
    ]
