"""From what was typed to a checked `Experiment`: Hydra composes, `lexalign.schema` and `lexalign.rules` judge.

Nothing is written and nothing heavy is imported here, so a refusal costs a fraction of a second.
"""

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lexalign import rules, schema
from lexalign.errors import ConfigError
from lexalign.parse import nearest, parse, unknown_key

CONF = Path(__file__).resolve().parent.parent / "conf"
OWN_PACKAGE = "lexalign"


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A checked experiment and the resolved tree it came from (what `config.yaml` records)."""

    experiment: schema.Experiment
    tree: dict[str, Any]


@cache
def loader(*extra: str) -> ConfigLoaderImpl:
    """Hydra's own loader over conf/ and the folders of `--config-dir`."""
    setup_globals()
    path = create_config_search_path(str(CONF))
    for folder in extra:
        path.append("command-line", str(Path(folder).resolve()))
    return ConfigLoaderImpl(config_search_path=path)


def compose(overrides: Sequence[str], *, config_dirs: Sequence[str] = ()) -> Composed:
    """The experiment that these overrides describe; raises `ConfigError` with every problem found."""
    tree, kept, problems = load(overrides, config_dirs=config_dirs)
    if tree is None:
        raise ConfigError(problems)
    return check(tree, kept, problems=problems, config_dirs=config_dirs)


def check(
    tree: DictConfig, overrides: Sequence[str], *, problems: Sequence[str] = (), config_dirs: Sequence[str] = ()
) -> Composed:
    """Hold a composed tree against the schema and the rules; raises `ConfigError` with every problem found."""
    found = list(problems)
    plain = resolved(tree, found)
    allowed = [OWN_PACKAGE, *typed_extensions(overrides)]
    found += foreign_targets(plain, allowed)
    found += foreign_hydra(tree.get("hydra"))
    found += rules.secrets(plain)
    if plain.get("extensions") not in ([], typed_extensions(overrides)):
        found.append("extensions: may only be named on the command line, as in 'extensions=[mylab]'")
    types: list[str] = []
    experiment = parse(schema.Experiment, plain, "", types, knobs(plain, allowed, types))
    found += types
    if experiment is not None:
        found += rules.problems(experiment, typed_keys(overrides, config_dirs=config_dirs))
    elif rest := without_wrong(overrides, types):
        # The rules need an experiment whose types are right: hold them against the settings that are.
        try:
            compose(rest, config_dirs=config_dirs)
        except ConfigError as error:
            found += error.problems
    if found or experiment is None:
        raise ConfigError(list(dict.fromkeys(found)))
    return Composed(experiment=experiment, tree=plain)


def without_wrong(overrides: Sequence[str], problems: Sequence[str]) -> list[str]:
    """The overrides whose keys no problem names; empty where that leaves all of them."""
    wrong = {re.split(r"[=:\[]", problem, maxsplit=1)[0] for problem in problems}
    rest = [o for o in overrides if not any(f"{key_of(o)}.".startswith(f"{key}.") or f"{key}.".startswith(f"{key_of(o)}.") for key in wrong)]
    return rest if len(rest) < len(overrides) else []


def key_of(override: str) -> str:
    """The dotted key an override sets."""
    return override.split("=", 1)[0].lstrip("+~").split("@")[0]


def load(overrides: Sequence[str], *, config_dirs: Sequence[str] = ()) -> tuple[DictConfig | None, list[str], list[str]]:
    """Hydra's tree and the overrides it was made from, without those at fault; and what is wrong with each of these."""
    try:
        return composed(overrides, config_dirs), list(overrides), []
    except (HydraException, OmegaConfBaseException) as error:
        first = str(error).splitlines()[0]
    repository = loader(*config_dirs).repository
    problems, groups, values = [], [], []
    for override in overrides:
        found = parsed([override])
        if not found:
            problems.append(f"{override}: cannot be read as key=value; quote text with spaces or commas: 'key=\"a, b\"'")
        elif not repository.group_exists(found[0].key_or_group):
            values.append(override)
        elif problem := wrong_choice(found[0], config_dirs):
            problems.append(problem)
        else:
            groups.append(override)
    try:
        known = known_keys(composed(groups, config_dirs))
    except (HydraException, OmegaConfBaseException) as error:
        return None, [], [*problems, str(error).splitlines()[0]]
    kept = list(groups)
    for override in values:
        key = key_of(override)
        if override.startswith("+") or key in known or key.startswith("hydra."):
            kept.append(override)
        else:
            problems.append(unknown_key(key, known))
    try:
        return composed(kept, config_dirs), kept, problems or [first]
    except (HydraException, OmegaConfBaseException) as error:
        return None, [], [*problems, str(error).splitlines()[0]]


def wrong_choice(override: Override, config_dirs: Sequence[str]) -> str | None:
    """What is wrong with a choice in a group, or None."""
    group, value = override.key_or_group, override.value()
    options = options_of(group, config_dirs)
    if value is None or not isinstance(value, str) or value in options:
        return None if value is None or isinstance(value, str) else f"{override.input_line}: choose one {group}, or sweep with -m"
    return f"{group}={value}: there is no such {group}; there are {', '.join(options)}{nearest(value, options)}"


def composed(overrides: Sequence[str], config_dirs: Sequence[str]) -> DictConfig:
    """Hydra's tree for these overrides, its own `hydra` node included."""
    return loader(*config_dirs).load_configuration("config", list(overrides), run_mode=RunMode.RUN, from_shell=False)


def parsed(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra's grammar reads them; unreadable ones are left to `load`, which names them."""
    parser = OverridesParser.create()
    found = []
    for override in overrides:
        try:
            found.append(parser.parse_override(override))
        except HydraException:
            continue
    return found


def options_of(group: str, config_dirs: Sequence[str] = ()) -> list[str]:
    """Names of a group's options, those in its folders included (`tiny/sft`)."""
    repository = loader(*config_dirs).repository
    options = list(repository.get_group_options(group))
    for folder in repository.get_group_options(group, results_filter=None):
        if repository.group_exists(f"{group}/{folder}") and folder not in options:
            options += [f"{folder}/{name}" for name in repository.get_group_options(f"{group}/{folder}")]
    return sorted(options)


def known_keys(tree: DictConfig) -> list[str]:
    """Every dotted key of a tree but Hydra's own."""

    def walk(node: Any, where: str) -> list[str]:
        if not isinstance(node, Mapping):
            return [where]
        return [where] * bool(where) + [key for name in node for key in walk(node[name], f"{where}.{name}" if where else str(name))]

    plain = OmegaConf.to_container(tree)
    assert isinstance(plain, dict)
    return walk({key: value for key, value in plain.items() if key != "hydra"}, "")


def resolved(tree: DictConfig, problems: list[str]) -> dict[str, Any]:
    """The tree without Hydra's node, interpolations resolved; a broken one is added to `problems`."""
    own = OmegaConf.masked_copy(tree, [key for key in tree if key != "hydra"])
    try:
        return OmegaConf.to_container(own, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        problems.append(f"{error.full_key}: {str(error).splitlines()[0]}")
        return OmegaConf.to_container(own, resolve=False)  # type: ignore[return-value]


def typed_extensions(overrides: Sequence[str]) -> list[str]:
    """Packages named by `extensions=[…]` on the command line."""
    return [str(name) for o in parsed(overrides) if o.key_or_group == "extensions" and isinstance(o.value(), list) for name in o.value()]


def typed_keys(overrides: Sequence[str], *, config_dirs: Sequence[str] = ()) -> frozenset[str]:
    """Dotted keys of the values that the user typed: an ignored one among them is an error."""
    repository = loader(*config_dirs).repository
    return frozenset(o.key_or_group for o in parsed(overrides) if not repository.group_exists(o.key_or_group))


def foreign_targets(node: Any, allowed: Sequence[str], where: str = "") -> list[str]:
    """Problems with every `_target_` (and other dotted path to code) outside the allowed packages, wherever it stands."""
    if isinstance(node, Mapping):
        found = []
        for key, value in node.items():
            full = f"{where}.{key}" if where else str(key)
            if key in ("_target_", "knobs", "converter") and value is not None and not inside(value, allowed):
                found.append(
                    f"{full}={value}: code is only taken from {' and '.join(allowed)}; name your own package on the command line: "
                    "'extensions=[mypackage]'"
                )
            found += foreign_targets(value, allowed, full)
        return found
    if isinstance(node, (list, tuple)):
        return [problem for i, item in enumerate(node) for problem in foreign_targets(item, allowed, f"{where}[{i}]")]
    return []


def inside(target: Any, packages: Sequence[str]) -> bool:
    """Whether a dotted path lies in one of the packages."""
    parts = str(target).split(".")
    return len(parts) > 1 and parts[0] in packages and all(part.isidentifier() for part in parts)


def foreign_hydra(node: DictConfig | None) -> list[str]:
    """Problems with code that a config file would have Hydra itself run: callbacks, logging factories, foreign launchers."""
    if node is None:
        return []
    found = []

    def walk(value: Any, where: str) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                if key == "_target_" and str(item).split(".")[0] not in ("hydra", "hydra_plugins", OWN_PACKAGE):
                    found.append(f"{where}._target_={item}: Hydra may only run its own plugins and ours")
                elif key in ("()", "class") and where.startswith(("hydra.job_logging", "hydra.hydra_logging")):
                    if not str(item).startswith("logging."):
                        found.append(f"{where}.{key}={item}: only the standard library's log handlers and formatters may be named here")
                else:
                    walk(item, f"{where}.{key}")
        elif isinstance(value, list):
            for i, item in enumerate(value):
                walk(item, f"{where}[{i}]")

    walk(OmegaConf.to_container(node, resolve=False), "hydra")
    return found


def knobs(plain: Mapping[str, Any], allowed: Sequence[str], problems: list[str]) -> dict[str, type]:
    """The dataclass that the method's `knobs` names, for `parse` to use in place of the general one."""
    method = plain.get("method")
    if not isinstance(method, Mapping) or not inside(method.get("knobs"), allowed):
        return {}
    module, _, name = str(method["knobs"]).rpartition(".")
    try:
        return {"method": getattr(importlib.import_module(module), name)}
    except (ImportError, AttributeError) as error:
        problems.append(f"method.knobs={method['knobs']}: {error}")
        return {}


def points(overrides: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """The overrides of each job: one list for a single run, the product of the swept values for a multirun."""
    if not multirun:
        return [list(overrides)]
    readable = parsed(overrides)
    unreadable = [o for o in overrides if o not in {str(r.input_line) for r in readable}]
    batches = BasicSweeper.split_arguments(readable, max_batch_size=None)
    return [[*job, *unreadable] for batch in batches for job in batch]
