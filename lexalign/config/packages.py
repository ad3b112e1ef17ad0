"""Configuration files of installed packages, through the entry points of the group `lexalign.configs`.

    [project.entry-points."lexalign.configs"]
    mylab = "mylab.conf"

The value names the folder of the files as a module. The package is not imported for this. Code that the files name as `_target_` still
runs only if `extensions=[mylab]` is typed.
"""

import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from lexalign.config.paths import CONF
from lexalign.errors import ConfigError

GROUP = "lexalign.configs"


class PackageConfigs(SearchPathPlugin):
    """Adds the folders of `find_package_folders` to Hydra's search path, after conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name, folder in find_package_folders().items():
            search_path.append(provider=f"package {name}", path=f"file://{folder}")


@cache
def register_packages() -> None:
    """Make Hydra read the files of packages too. Call this before Hydra composes. Raises ConfigError as `find_package_folders` does."""
    if find_package_folders():
        Plugins.instance().register(PackageConfigs)


@cache
def find_package_folders() -> dict[str, Path]:
    """The folder of each entry point, by its name. Raises ConfigError if a folder is missing, or two sources share a file name."""
    folders: dict[str, Path] = {}
    problems: list[str] = []
    owners = dict.fromkeys(list_files(CONF), "lexalign") if importlib.metadata.entry_points(group=GROUP) else {}
    for point in sorted(importlib.metadata.entry_points(group=GROUP)):
        source_text = f"the package {point.dist.name if point.dist else point.name} brings configurations from {point.value}"
        folder = find_folder(point.value)
        if folder is None:
            problems.append(f"{source_text}: there is no such folder; install the package again, or uninstall it")
            continue
        for name in list_files(folder):
            if name in owners:
                problems.append(
                    f"{source_text}: {name} is also a file of {owners[name]}, and one of them would be ignored; it has to be renamed"
                )
            owners[name] = point.name
        folders[point.name] = folder
    if problems:
        raise ConfigError(problems)
    return folders


def list_files(folder: Path) -> list[str]:
    """The configuration files of a folder, as paths below it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))


def find_folder(module: str) -> Path | None:
    """The folder of a dotted name; None if there is none. The package is not imported."""
    package, *submodules = module.split(".")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = spec.submodule_search_locations if spec is not None else None
    return next((folder for place in places or () if (folder := Path(place, *submodules)).is_dir()), None)
