"""The files below conf/ (and in the user's `--config-dir`) as Hydra reads them: trees, groups and their options."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from lexalign.parse import nearest

CONF = Path(__file__).resolve().parent.parent / "conf"
MISSING_OPTION = re.compile(r"Could not (?:find|load|override) '([\w/@-]+)/([\w.-]+)'")


class Uncomposable(Exception):
    """Hydra cannot make a tree of these overrides and files; the message says why, in one line."""


@cache
def loader(*extra: str) -> ConfigLoaderImpl:
    """Hydra's own loader over conf/ and the folders of `--config-dir`."""
    setup_globals()
    path = create_config_search_path(str(CONF))
    for folder in extra:
        # Where Hydra itself puts it: its own schema must stay the last.
        path.prepend("command-line", f"file://{Path(folder).resolve()}", anchor=SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(config_search_path=path)


def composed(overrides: Sequence[str], config_dirs: Sequence[str]) -> DictConfig:
    """Hydra's tree for these overrides, its own `hydra` node included; raises `Uncomposable`."""
    try:
        return loader(*config_dirs).load_configuration("config", list(overrides), run_mode=RunMode.RUN, from_shell=False)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise Uncomposable(reason(error, config_dirs)) from error


def reason(error: Exception, config_dirs: Sequence[str]) -> str:
    """Hydra's message in one line, with what there is to choose from where a choice does not exist."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}:{error.problem_mark.line + 1}: is not YAML ({error.problem})"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {error.msg or str(error).splitlines()[0]}".replace("\n", " ")
    message = str(error).strip() or type(error).__name__
    if found := MISSING_OPTION.search(message):
        return no_option(found[1], found[2], config_dirs)
    return message.splitlines()[0]


def no_option(group: str, value: str, config_dirs: Sequence[str]) -> str:
    """The problem with an option that a group does not have."""
    options = options_of(group, config_dirs)
    return f"{group}={value}: there is no such {group}; there are {', '.join(options) or 'none'}{nearest(value, options)}"


def is_group(name: str, config_dirs: Sequence[str] = ()) -> bool:
    """Whether a key names a group of files rather than a setting."""
    return bool(loader(*config_dirs).repository.group_exists(name))


def options_of(group: str, config_dirs: Sequence[str] = ()) -> list[str]:
    """Names of a group's options, those in its folders included (`tiny/sft`)."""
    repository = loader(*config_dirs).repository

    def walk(folder: str) -> Iterator[str]:
        options = repository.get_group_options(f"{group}/{folder}".rstrip("/"))
        yield from (f"{folder}{name}" for name in options)
        for name in repository.get_group_options(f"{group}/{folder}".rstrip("/"), results_filter=None):
            if name not in options and repository.group_exists(f"{group}/{folder}{name}"):
                yield from walk(f"{folder}{name}/")

    return sorted(set(walk("")))


def owners(key: str, config_dirs: Sequence[str]) -> list[str]:
    """The methods that have a setting of this key (`method.beta`) in their file."""
    name = key.removeprefix("method.")
    repository = loader(*config_dirs).repository
    files = {option: repository.load_config(f"method/{option}") for option in options_of("method", config_dirs)}
    return [option for option, file in files.items() if file is not None and OmegaConf.select(file.config, f"method.{name}") is not None]


def known_keys(tree: DictConfig) -> list[str]:
    """Every dotted key of a tree."""

    def walk(node: Any, where: str) -> list[str]:
        if not isinstance(node, Mapping):
            return [where]
        return [where] * bool(where) + [key for name in node for key in walk(node[name], f"{where}.{name}" if where else str(name))]

    return walk(OmegaConf.to_container(tree), "")


def resolved(tree: DictConfig, problems: list[str]) -> dict[str, Any]:
    """The tree without Hydra's node, interpolations resolved; a broken one is added to `problems`."""
    own = OmegaConf.masked_copy(tree, [key for key in tree if key != "hydra"])
    try:
        return OmegaConf.to_container(own, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        problems.append(f"{error.full_key}: {str(error).splitlines()[0]}")
        return OmegaConf.to_container(own, resolve=False)  # type: ignore[return-value]
