"""Read the files below conf/ (and in the user's `--config-dir`) with Hydra: trees, groups and their options."""

import copy
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra._internal.config_repository import CachingConfigRepository, ConfigResult, IConfigRepository  # see `make_hydra_loader`
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from lexalign.compat import apply_hydra_overrides, make_hydra_loader
from lexalign.config.file_limits import refuse_hostile_file
from lexalign.config.packages import find_package_folders, register_packages
from lexalign.config.parsing import suggest_nearest
from lexalign.config.paths import CONF

EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}
"""Hydra's launchers and the extra that installs each."""
PARSER = OverridesParser.create()
MISSING_OPTION = re.compile(r"Could not (?:find|load|override) '([\w/@-]+)/([\w.-]+)'")


class CompositionError(Exception):
    """Hydra cannot make a tree from these overrides and files. The message gives the reason in one line."""


class CachedRepository(CachingConfigRepository):
    """Reads each file once in a process, because a command line is composed several times, and a sweep many times.

    Hydra changes the trees that it reads, so each file is kept as bytes and unpacked each time.
    """

    def __init__(self, delegate: IConfigRepository, contents: dict[str, bytes], folders: tuple[str, ...]):
        super().__init__(delegate)
        self.kept = contents
        self.folders = folders

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self.kept:
            for folder in self.folders:
                refuse_hostile_file(Path(folder, f"{config_path.removesuffix('.yaml')}.yaml"))
            self.kept[config_path] = pickle.dumps(self.delegate.load_config(config_path))
        return pickle.loads(self.kept[config_path])

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self.kept = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "CachedRepository":
        return CachedRepository(self.delegate, self.kept, self.folders)


@cache
def get_loader(folders: tuple[str, ...]) -> Any:
    """Hydra's loader for conf/ and the folders that have priority over it. It reads each file once in a process."""
    setup_globals()
    register_packages()
    return make_hydra_loader(CONF, folders, lambda repository: CachedRepository(repository, {}, folders))


@dataclass(frozen=True)
class Sources:
    """The places of configuration files. `folders` (those of `--config-dir`) have priority over conf/."""

    folders: tuple[str, ...] = ()

    @property
    def loader(self) -> Any:
        """Hydra's loader for these files. It reads each of them once in a process."""
        return get_loader(self.folders)

    def list_folders(self) -> list[Path]:
        """All folders with configuration files."""
        return [*map(Path, self.folders), CONF, *find_package_folders().values()]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Hydra's tree for these overrides, with its own `hydra` node. Do not change the tree. Raises `CompositionError`.

        Files are merged once for each choice of groups, which takes most of the time. The values are set afterwards, as in Hydra.
        """
        values = [override for override in overrides if is_plain_value(override, self)]
        try:
            base = merge_files(tuple(override for override in overrides if override not in values), self)
            return (
                self.apply_overrides([parsed for value in values for parsed in PARSER.parse_overrides([value])], base) if values else base
            )
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
            raise CompositionError(self.explain_error(error)) from error

    def apply_overrides(self, overrides: Sequence[Override], tree: DictConfig) -> DictConfig:
        """A copy of a tree with the values of overrides, which Hydra sets last; raises `CompositionError`."""
        new_tree = copy.deepcopy(tree)
        try:
            apply_hydra_overrides(overrides, new_tree)
        except (HydraException, OmegaConfBaseException) as error:
            raise CompositionError(self.explain_error(error)) from error
        return new_tree

    def explain_error(self, error: Exception) -> str:
        """Hydra's message in one line. If a choice does not exist, it lists the options."""
        if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
            return f"{error.problem_mark.name}:{error.problem_mark.line + 1}: is not YAML ({error.problem})"
        if isinstance(error, OmegaConfBaseException) and error.full_key:
            return f"{error.full_key}: {error.msg or str(error).splitlines()[0]}".replace("\n", " ")
        message = str(error).strip() or type(error).__name__
        if choice := MISSING_OPTION.search(message):
            return self.describe_missing_option(choice[1], choice[2])
        first_line, *other_lines = (line.strip() for line in message.splitlines())
        return f"{first_line} {other_lines[0]}" if first_line.endswith(":") and other_lines else first_line

    def describe_missing_option(self, group: str, value: str) -> str:
        """The message for an option that a group does not have."""
        if group == "hydra/launcher" and value in EXTRAS:
            return f"{group}={value}: is not installed; type: pip install 'lexalign[{EXTRAS[value]}]'"
        options = self.list_options(group)
        return f"{group}={value}: there is no such {group}; there are {', '.join(options) or 'none'}{suggest_nearest(value, options)}"

    def is_group(self, name: str) -> bool:
        """Whether a key names a group of files, not a setting."""
        return bool(self.loader.repository.group_exists(name))

    def list_options(self, group: str) -> list[str]:
        """Names of a group's options, including those in its folders (`tiny/sft`)."""
        repository = self.loader.repository

        def walk(folder: str) -> Iterator[str]:
            options = repository.get_group_options(f"{group}/{folder}".rstrip("/"))
            yield from (f"{folder}{name}" for name in options)
            for name in repository.get_group_options(f"{group}/{folder}".rstrip("/"), results_filter=None):
                if name not in options and repository.group_exists(f"{group}/{folder}{name}"):
                    yield from walk(f"{folder}{name}/")

        return sorted(set(walk("")))

    def find_owners(self, key: str) -> list[str]:
        """The methods whose file has a setting with this key (`method.beta`)."""
        name = key.removeprefix("method.")
        repository = self.loader.repository
        files = {option: repository.load_config(f"method/{option}") for option in self.list_options("method")}
        trees = {option: file.config for option, file in files.items() if file is not None}
        return [option for option, tree in trees.items() if OmegaConf.select(tree, f"method.{name}") is not None]


CONF_ONLY = Sources()
"""Only the files of conf/."""


@lru_cache(maxsize=16)
def merge_files(overrides: tuple[str, ...], sources: Sources) -> DictConfig:
    """Compose files and overrides with Hydra."""
    return sources.loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN, from_shell=False)


@cache
def is_plain_value(override: str, sources: Sources) -> bool:
    """Whether an override only sets one value of an existing setting: it adds nothing, and chooses no file."""
    try:
        (parsed,) = PARSER.parse_overrides([override])
    except HydraException:
        return False
    is_own = not (
        parsed.is_add() or parsed.is_delete() or parsed.is_sweep_override() or parsed.package or parsed.key_or_group.startswith("hydra")
    )
    return is_own and not sources.is_group(parsed.key_or_group)


def list_keys(tree: DictConfig) -> list[str]:
    """Every dotted key of a tree."""

    def walk(node: Any, where: str) -> Iterator[str]:
        if where:
            yield where
        for name in node if isinstance(node, Mapping) else ():
            yield from walk(node[name], f"{where}.{name}".lstrip("."))

    return list(walk(OmegaConf.to_container(tree), ""))


def resolve_tree(tree: DictConfig, problems: list[str]) -> dict[str, Any]:
    """The tree without Hydra's node, with resolved interpolations. A broken interpolation is added to `problems`."""
    own_tree = OmegaConf.masked_copy(tree, [str(key) for key in tree if key != "hydra"])
    try:
        return OmegaConf.to_container(own_tree, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        problems.append(f"{error.full_key}: {str(error).splitlines()[0]}")
        return OmegaConf.to_container(own_tree, resolve=False)  # type: ignore[return-value]
