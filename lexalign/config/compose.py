"""Make a checked `Experiment` from the typed overrides. Hydra composes; `lexalign.config.schema` and `lexalign.config.rules` check.

Nothing is written and nothing heavy is imported here, so an error message takes a fraction of a second.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lexalign.config import aliases, rules, schema, targets
from lexalign.config.loading import CONF_ONLY, CompositionError, Sources, list_keys, resolve_tree
from lexalign.config.model_choice import follow_model
from lexalign.config.overrides import (
    drop_wrong,
    find_repeated,
    find_switched_off,
    find_wrong_choice,
    get_extensions,
    get_key,
    list_typed_keys,
    name_key,
    parse_overrides,
)
from lexalign.config.parsing import describe_unknown_key, format_value, parse
from lexalign.config.rules import trust
from lexalign.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A checked experiment and its resolved tree (which `config.yaml` records)."""

    experiment: schema.Experiment
    tree: dict[str, Any]
    typed: tuple[str, ...] = ()
    """The overrides of the experiment."""
    notes: tuple[str, ...] = ()
    """Messages about options that were replaced because of these overrides."""


def compose(
    overrides: Sequence[str], sources: Sources = CONF_ONLY, *, ancestors: tuple[str, ...] = (), problems: Sequence[str] = ()
) -> Composition:
    """The experiment that these overrides describe; raises `ConfigError` with every problem, and with the given `problems`.

    `ancestors` are the experiments that descend from this one.
    """
    overrides = [aliases.rename_override(override) for override in overrides]
    final_overrides, notes = follow_model(overrides, sources)
    tree, valid_overrides, override_problems = load_tree(final_overrides, sources)
    problems = [*problems, *override_problems]
    if tree is None:
        raise ConfigError(problems)
    dropped_keys = {get_key(override) for override in overrides if override not in valid_overrides} - {
        get_key(override) for override in valid_overrides
    }
    typed_overrides = [override for override in valid_overrides if override in overrides]
    try:
        composition = check_tree(tree, typed_overrides, sources, problems=problems, ancestors=ancestors)
    except ConfigError as error:
        # If a value cannot be read, a rule would report a problem of the default instead.
        follow_on_problems = [problem for problem in error.problems if problem not in problems and name_key(problem) in dropped_keys]
        raise ConfigError([problem for problem in error.problems if problem not in follow_on_problems]) from None
    return dataclasses.replace(composition, typed=tuple(overrides), notes=tuple(notes))


def check_tree(
    tree: DictConfig,
    overrides: Sequence[str],
    sources: Sources = CONF_ONLY,
    *,
    problems: Sequence[str] = (),
    ancestors: tuple[str, ...] = (),
) -> Composition:
    """Check a composed tree with the schema and the rules; raises `ConfigError` with every problem."""
    all_problems = [*problems, *find_repeated(overrides), *find_switched_off(overrides).values()]
    all_problems += trust.find_untrusted_settings(tree, overrides, sources)
    if resolver_problems := trust.find_resolver_problems(OmegaConf.masked_copy(tree, [str(key) for key in tree if key != "hydra"])):
        raise ConfigError([*all_problems, *resolver_problems])  # before anything is resolved
    settings, rename_notes = aliases.rename_settings(resolve_tree(tree, all_problems))
    aliases.say_renamed(rename_notes)
    if settings.pop("experiment", None) is not None:
        all_problems.append("experiment: its file sets nothing; let it begin with the line `# @package _global_`")
    switch_evaluation(settings)
    extensions = get_extensions(overrides)
    packages = [targets.OWN_PACKAGE, *extensions]
    all_problems += targets.find_extension_problems(extensions)
    all_problems += targets.find_target_problems(settings, packages)
    all_problems += targets.find_hydra_problems(tree.get("hydra"))
    all_problems += rules.check_secrets(settings)
    if isinstance(settings.get("extensions"), list) and settings["extensions"] not in ([], extensions):
        all_problems.append("extensions: may only be named on the command line, as in 'extensions=[mylab]'")
    type_problems: list[str] = []
    experiment = parse(schema.Experiment, settings, "", type_problems, targets.get_settings_class(settings, packages, type_problems))
    all_problems += type_problems
    if experiment is not None:
        typed_keys = list_typed_keys(overrides)
        # A parent runs in the store of the child, so its own folders are not used.
        unused_keys = ("output_dir", "store") if ancestors else ()
        all_problems += [problem for problem in rules.find_problems(experiment, typed_keys) if name_key(problem) not in unused_keys]
        all_problems += find_parent_problems(experiment, sources, ancestors=ancestors, is_typed="model.parent_overrides" in typed_keys)
    elif right_overrides := drop_wrong(overrides, type_problems):
        # The rules need an experiment with right types, so check them without the wrong settings.
        try:
            compose(right_overrides, sources, ancestors=ancestors)
        except ConfigError as error:
            all_problems += error.problems
    if all_problems or experiment is None:
        raise ConfigError(list(dict.fromkeys(all_problems)))
    return Composition(experiment=experiment, tree=settings, typed=tuple(overrides))


def load_recorded(tree: dict[str, Any], experiment: schema.Experiment) -> Composition:
    """The experiment of a tree that a run recorded.

    Raises ConfigError if the tree is no longer valid, or if it sets values that must be typed and were not typed in `experiment`. Settings
    that did not exist at that time get today's defaults, and a message names them.
    """
    tree, rename_notes = aliases.rename_settings(tree)
    tree, added_settings = aliases.complete_settings(tree)
    aliases.say_renamed(rename_notes)
    if added_settings:
        settings_text = ", ".join(f"{key}={format_value(value)}" for key, value in added_settings.items())
        print(f"settings that the run did not record have today's defaults: {settings_text}", file=sys.stderr)
    if problems := trust.find_untrusted_records(tree, experiment):
        raise ConfigError(problems)
    extensions = experiment.extensions
    return check_tree(OmegaConf.create(tree), [f"extensions=[{','.join(extensions)}]"] if extensions else [])


def switch_evaluation(plain: dict[str, Any]) -> None:
    """Replace `evaluate=false` (or true) by the whole group with this value of `enabled`."""
    switch = plain.get("evaluate")
    if isinstance(switch, bool):
        plain["evaluate"] = {**resolve_tree(CONF_ONLY.compose([]), [])["evaluate"], "enabled": switch}


def get_parent_command(experiment: schema.Experiment) -> list[str]:
    """The overrides that run the parent."""
    extensions = [f"extensions=[{','.join(experiment.extensions)}]"] if experiment.extensions else []
    return [f"experiment={experiment.model.parent}", *experiment.model.parent_overrides, *extensions]


def find_parent_problems(
    experiment: schema.Experiment, sources: Sources, *, ancestors: tuple[str, ...], is_typed: bool = False
) -> list[str]:
    """Problems of the parent, which otherwise would appear only when the parent runs."""
    name = experiment.model.parent
    if name is None:
        return []
    if not is_typed and (override_problems := trust.find_untrusted_overrides(experiment.model.parent_overrides, "model.parent_overrides")):
        return override_problems
    if name not in sources.list_options("experiment"):
        return [f"model.parent: {sources.describe_missing_option('experiment', name)}"]
    if name in ancestors:
        return [f"model.parent={name}: experiments descend from each other: {' -> '.join((*ancestors, name))}"]
    problems = find_command_problems(tuple(get_parent_command(experiment)), sources, (*ancestors, name))
    return [f"model.parent={name}: {problem}" for problem in problems]


@cache
def find_command_problems(command: tuple[str, ...], sources: Sources, ancestors: tuple[str, ...]) -> list[str]:
    """Problems of the overrides that run a parent. Cached, because all points of a sweep have the same parent."""
    try:
        parent = compose(command, sources, ancestors=ancestors).experiment
    except ConfigError as error:
        return error.problems
    if parent.stage.name in ("evaluate", "chat"):
        return [f"is stage={parent.stage.name} and makes no model; name an experiment that trains or fetches one"]
    if parent.stage.name == "export":
        return []
    makes_model = parent.method is not None or (parent.model.path is not None and parent.download.only != "datasets")
    return [] if makes_model else [f"is stage={parent.stage.name} and fetches no model; name an experiment that trains or fetches one"]


def load_tree(overrides: Sequence[str], sources: Sources) -> tuple[DictConfig | None, list[str], list[str]]:
    """Hydra's tree (None if it cannot be made), its valid overrides, and the problems of the other overrides."""
    try:
        return sources.compose(overrides), list(overrides), []
    except CompositionError as error:
        first_problem = str(error)
    problems, groups, values = [], [], []
    for override in overrides:
        parsed = parse_overrides([override])
        if not parsed or not parsed[0].key_or_group:
            problems.append(f"{override}: cannot be read as key=value; {quote_value(override)}")
        elif parsed[0].is_sweep_override() and not sources.is_group(parsed[0].key_or_group):
            problems.append(f"{override}: several values are a sweep; type -m for one, or for a text {quote_value(override)}")
        elif not sources.is_group(parsed[0].key_or_group):
            values.append(override)
        elif problem := find_wrong_choice(parsed[0], sources):
            problems.append(problem)
        else:
            groups.append(override)
    try:
        base = sources.compose(groups)
    except CompositionError as error:
        return None, [], [*problems, str(error)]
    switch_problems = find_switched_off(values)
    known_keys = [key for key in list_keys(base) if not key.startswith("hydra")]
    valid_overrides = []
    for override in values:
        key_problems = [problem for key in list_settings(override) if (problem := explain_unknown_key(key, known_keys, base, sources))]
        key_problems += [switch_problems[override]] if override in switch_problems else []
        problems += key_problems
        if not key_problems:
            valid_overrides.append(override)
    try:
        return sources.apply_overrides(parse_overrides(valid_overrides), base), groups + valid_overrides, problems or [first_problem]
    except CompositionError as error:
        return None, [], [*problems, str(error)]


def quote_value(override: str) -> str:
    """Advice on typing a value that Hydra's grammar reads in another way."""
    key, equals, value = override.partition("=")
    return (
        f"quote it: '{key}=\"{value}\"'" if key and equals and '"' not in value else "type it so, with quotes around text: 'key=\"a, b\"'"
    )


def list_settings(override: str) -> list[str]:
    """The keys of an override that must exist in the tree: none if it adds a key."""
    return [] if override.startswith("+") else sorted(list_typed_keys([override])) or [get_key(override)]


def explain_unknown_key(key: str, known: Sequence[str], tree: DictConfig, sources: Sources) -> str | None:
    """The problem with a key that is not a setting here, but perhaps of another method or of Hydra; None for a setting."""
    if key in known:
        return None
    if key.startswith("hydra."):
        if advice := targets.IGNORED.get(key.removeprefix("hydra.")):
            return f"{key}: is not read; {advice}"
        parent_key, _, name = key.rpartition(".")
        node = OmegaConf.select(tree, parent_key)
        return None if isinstance(node, DictConfig) and name in node else f"{key}: Hydra has no such setting"
    owners = sources.find_owners(key) if key.startswith("method.") else []
    if owners:
        method = OmegaConf.select(tree, "method.name") or "none"
        return f"{key}: is a setting of method={', '.join(owners)}, not of method={method}; choose one of these, or leave it out"
    return describe_unknown_key(key, known)
