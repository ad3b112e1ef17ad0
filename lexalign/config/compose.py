"""From what was typed to a checked `Experiment`: Hydra composes, `lexalign.config.schema` and `lexalign.config.rules` judge.

Nothing is written and nothing heavy is imported here, so a refusal costs a fraction of a second.
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
    """A checked experiment and the resolved tree it came from (what `config.yaml` records)."""

    experiment: schema.Experiment
    tree: dict[str, Any]
    typed: tuple[str, ...] = ()
    """The overrides it was made from."""
    notes: tuple[str, ...] = ()
    """What to say of options that were replaced because of these overrides."""


def compose(
    overrides: Sequence[str], sources: Sources = CONF_ONLY, *, ancestors: tuple[str, ...] = (), problems: Sequence[str] = ()
) -> Composition:
    """The experiment that these overrides describe; raises `ConfigError` with every problem found, and those found before.

    `ancestors` are the experiments this one is a parent of.
    """
    overrides = [aliases.rename_override(override) for override in overrides]
    adjusted, notes = follow_model(overrides, sources)
    tree, valid, unreadable = load_tree(adjusted, sources)
    problems = [*problems, *unreadable]
    if tree is None:
        raise ConfigError(problems)
    dropped = {get_key(override) for override in overrides if override not in valid} - {get_key(override) for override in valid}
    typed = [override for override in valid if override in overrides]
    try:
        composition = check_tree(tree, typed, sources, problems=problems, ancestors=ancestors)
    except ConfigError as error:
        # Without a value that cannot be read, a rule would speak of the default in its place.
        follow_on = [problem for problem in error.problems if problem not in problems and name_key(problem) in dropped]
        raise ConfigError([problem for problem in error.problems if problem not in follow_on]) from None
    return dataclasses.replace(composition, typed=tuple(overrides), notes=tuple(notes))


def check_tree(
    tree: DictConfig,
    overrides: Sequence[str],
    sources: Sources = CONF_ONLY,
    *,
    problems: Sequence[str] = (),
    ancestors: tuple[str, ...] = (),
) -> Composition:
    """Hold a composed tree against the schema and the rules; raises `ConfigError` with every problem found."""
    wrong = [*problems, *find_repeated(overrides), *find_switched_off(overrides).values()]
    wrong += trust.find_untrusted_settings(tree, overrides, sources)
    if unreadable := trust.find_resolver_problems(OmegaConf.masked_copy(tree, [str(key) for key in tree if key != "hydra"])):
        raise ConfigError([*wrong, *unreadable])  # before anything is resolved
    plain, renamed = aliases.rename_settings(resolve_tree(tree, wrong))
    aliases.say_renamed(renamed)
    if plain.pop("experiment", None) is not None:
        wrong.append("experiment: its file sets nothing; let it begin with the line `# @package _global_`")
    switch_evaluation(plain)
    extensions = get_extensions(overrides)
    allowed = [targets.OWN_PACKAGE, *extensions]
    wrong += targets.find_extension_problems(extensions)
    wrong += targets.find_target_problems(plain, allowed)
    wrong += targets.find_hydra_problems(tree.get("hydra"))
    wrong += rules.check_secrets(plain)
    if isinstance(plain.get("extensions"), list) and plain["extensions"] not in ([], extensions):
        wrong.append("extensions: may only be named on the command line, as in 'extensions=[mylab]'")
    types: list[str] = []
    experiment = parse(schema.Experiment, plain, "", types, targets.get_settings_class(plain, allowed, types))
    wrong += types
    if experiment is not None:
        typed = list_typed_keys(overrides)
        # A parent is run below the child's store: its own folders are not used.
        unused = ("output_dir", "store") if ancestors else ()
        wrong += [problem for problem in rules.find_problems(experiment, typed) if name_key(problem) not in unused]
        wrong += find_parent_problems(experiment, sources, ancestors=ancestors, is_typed="model.parent_overrides" in typed)
    elif rest := drop_wrong(overrides, types):
        # The rules need an experiment whose types are right: hold them against the settings that are.
        try:
            compose(rest, sources, ancestors=ancestors)
        except ConfigError as error:
            wrong += error.problems
    if wrong or experiment is None:
        raise ConfigError(list(dict.fromkeys(wrong)))
    return Composition(experiment=experiment, tree=plain, typed=tuple(overrides))


def load_recorded(tree: dict[str, Any], experiment: schema.Experiment) -> Composition:
    """The experiment of a tree that a run recorded; raises ConfigError where it is none any more, or sets what was not typed in
    `experiment` and has to be.

    Settings that did not exist then get today's defaults, which is said.
    """
    tree, renamed = aliases.rename_settings(tree)
    tree, added = aliases.complete_settings(tree)
    aliases.say_renamed(renamed)
    if added:
        said = ", ".join(f"{key}={format_value(value)}" for key, value in added.items())
        print(f"settings that the run did not record have today's defaults: {said}", file=sys.stderr)
    if problems := trust.find_untrusted_records(tree, experiment):
        raise ConfigError(problems)
    extensions = experiment.extensions
    return check_tree(OmegaConf.create(tree), [f"extensions=[{','.join(extensions)}]"] if extensions else [])


def switch_evaluation(plain: dict[str, Any]) -> None:
    """`evaluate=false` (or true) stands for the whole group with `enabled` set so."""
    switch = plain.get("evaluate")
    if isinstance(switch, bool):
        plain["evaluate"] = {**resolve_tree(CONF_ONLY.compose([]), [])["evaluate"], "enabled": switch}


def get_parent_command(experiment: schema.Experiment) -> list[str]:
    """What one would type to run the parent."""
    extensions = [f"extensions=[{','.join(experiment.extensions)}]"] if experiment.extensions else []
    return [f"experiment={experiment.model.parent}", *experiment.model.parent_overrides, *extensions]


def find_parent_problems(
    experiment: schema.Experiment, sources: Sources, *, ancestors: tuple[str, ...], is_typed: bool = False
) -> list[str]:
    """What is wrong with the parent, which would otherwise be found only when it is run."""
    name = experiment.model.parent
    if name is None:
        return []
    if not is_typed and (forbidden := trust.find_untrusted_overrides(experiment.model.parent_overrides, "model.parent_overrides")):
        return forbidden
    if name not in sources.list_options("experiment"):
        return [f"model.parent: {sources.describe_missing_option('experiment', name)}"]
    if name in ancestors:
        return [f"model.parent={name}: experiments descend from each other: {' -> '.join((*ancestors, name))}"]
    problems = find_command_problems(tuple(get_parent_command(experiment)), sources, (*ancestors, name))
    return [f"model.parent={name}: {problem}" for problem in problems]


@cache
def find_command_problems(command: tuple[str, ...], sources: Sources, ancestors: tuple[str, ...]) -> list[str]:
    """What is wrong with what one would type to run a parent; cached, because all points of a sweep share theirs."""
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
    """Hydra's tree and the overrides it was made from, without those at fault; and what is wrong with each of these."""
    try:
        return sources.compose(overrides), list(overrides), []
    except CompositionError as error:
        first = str(error)
    problems, groups, values = [], [], []
    for override in overrides:
        read = parse_overrides([override])
        if not read or not read[0].key_or_group:
            problems.append(f"{override}: cannot be read as key=value; {quote_value(override)}")
        elif read[0].is_sweep_override() and not sources.is_group(read[0].key_or_group):
            problems.append(f"{override}: several values are a sweep; type -m for one, or for a text {quote_value(override)}")
        elif not sources.is_group(read[0].key_or_group):
            values.append(override)
        elif problem := find_wrong_choice(read[0], sources):
            problems.append(problem)
        else:
            groups.append(override)
    try:
        base = sources.compose(groups)
    except CompositionError as error:
        return None, [], [*problems, str(error)]
    undone = find_switched_off(values)
    known = [key for key in list_keys(base) if not key.startswith("hydra")]
    valid = []
    for override in values:
        wrong = [problem for key in list_settings(override) if (problem := explain_unknown_key(key, known, base, sources))]
        wrong += [undone[override]] if override in undone else []
        problems += wrong
        if not wrong:
            valid.append(override)
    try:
        return sources.apply_overrides(parse_overrides(valid), base), groups + valid, problems or [first]
    except CompositionError as error:
        return None, [], [*problems, str(error)]


def quote_value(override: str) -> str:
    """How to type a value that Hydra's grammar takes for something else."""
    key, equals, value = override.partition("=")
    return (
        f"quote it: '{key}=\"{value}\"'" if key and equals and '"' not in value else "type it so, with quotes around text: 'key=\"a, b\"'"
    )


def list_settings(override: str) -> list[str]:
    """The keys an override wants to find in the tree: none where it adds one."""
    return [] if override.startswith("+") else sorted(list_typed_keys([override])) or [get_key(override)]


def explain_unknown_key(key: str, known: Sequence[str], tree: DictConfig, sources: Sources) -> str | None:
    """The problem with a key that is no setting here, but another method's, Hydra's or nobody's; None for one that is."""
    if key in known:
        return None
    if key.startswith("hydra."):
        if instead := targets.IGNORED.get(key.removeprefix("hydra.")):
            return f"{key}: is not read; {instead}"
        above, _, name = key.rpartition(".")
        node = OmegaConf.select(tree, above)
        return None if isinstance(node, DictConfig) and name in node else f"{key}: Hydra has no such setting"
    others = sources.find_owners(key) if key.startswith("method.") else []
    if others:
        chosen = OmegaConf.select(tree, "method.name") or "none"
        return f"{key}: is a setting of method={', '.join(others)}, not of method={chosen}; choose one of these, or leave it out"
    return describe_unknown_key(key, known)
