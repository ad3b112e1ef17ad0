"""What makes two command lines one sweep, and a job of an earlier call the same job now."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lexalign import hardware, identity, runs
from lexalign.compose import Composed, compose, parent_command
from lexalign.configs import CONF
from lexalign.errors import ConfigError, LexAlignError
from lexalign.overrides import key_of
from lexalign.schema import Data, Experiment, Model, RewardMethod, Sweep
from lexalign.sweeps.ledger import is_sweep
from lexalign.sweeps.points import Asked, belongs_to_sweep

PARENTS: dict[tuple[Any, ...], Experiment] = {}
"""Parents by what is typed for them and what they take from their children: the points of a sweep share theirs."""
LONGEST = 60
"""Characters of the part of a folder's name that tells what is swept."""
NOT_THE_SWEEP = ("tracking", "store", "verbose", "resume", "cache")
"""Settings that change where a sweep is seen or kept, not what it is."""


def of(asked: Asked) -> str:
    """Digest of what is swept and what is fixed, the values excepted: a sweep to which a value is added stays itself."""
    fixed = sorted(o for o in asked.fixed if not belongs_to_sweep(key_of(o)) and key_of(o).split(".")[0] not in NOT_THE_SWEEP)
    return digest([fixed, sorted({axis.key for axis in asked.axes}), asked.sampler != "grid"])


def folder_of(asked: Asked, below: Path, *, fresh: bool) -> Path:
    """Where the sweep of a command line is, or will be, that gives no `output_dir`; a `fresh` one gets a folder with the next number."""
    swept = "+".join(axis.key.replace("/", ".") for axis in asked.axes) or "one"
    name = f"{swept[:LONGEST]}-{of(asked)[:8]}"
    numbers = [1, *(int(path.suffix[1:]) for path in below.glob(f"{name}.*") if path.suffix[1:].isdigit())]
    there = below / name
    number = max(numbers) + fresh * (there.exists() or len(numbers) > 1)
    return there if number == 1 else below / f"{name}.{number}"


@cache
def composed(overrides: tuple[str, ...], config_dirs: tuple[str, ...]) -> Composed:
    """A point's experiment; composed once in a process."""
    return compose(overrides, config_dirs=config_dirs)


def ancestors(experiment: Experiment, config_dirs: Sequence[str]) -> list[Experiment]:
    """The experiments that a run starts from, nearest first."""
    found: list[Experiment] = []
    while experiment.model.parent is not None:
        same = (*parent_command(experiment), experiment.hardware, experiment.store, *config_dirs)
        if same not in PARENTS:
            PARENTS[same] = runs.compose_parent(experiment, config_dirs=config_dirs).experiment
        experiment = PARENTS[same]
        found.append(experiment)
    return found


def key(line: Sequence[Experiment]) -> tuple[str, str | None]:
    """Content keys of a run and of its parent; `line` is the run and its `ancestors`."""
    parent = None
    for experiment in reversed(line[1:]):
        parent = identity.content_key(experiment, parent=parent)
    return identity.content_key(line[0], parent=parent), parent


# A key costs a composition of its point. Ten thousand of them cost minutes, so a ledger also notes what its keys stood on beside the words
# that were typed: where that is the same, so are the keys.


def ground(line: Sequence[Experiment]) -> dict[str, Any]:
    """What the keys of `line` read from outside the settings: the places of models, data and rewards, and the code of extensions."""
    return {
        "models": [dataclasses.asdict(experiment.model) for experiment in line],
        "data": [dataclasses.asdict(experiment.data) for experiment in line],
        "rewards": [e.method.rewards for e in line if isinstance(e.method, RewardMethod)],
        "extensions": line[0].extensions,
    }


def standing(ground: dict[str, Any], config_dirs: Sequence[str]) -> str:
    """Digest of what is there now at the places of a `ground`, and of code, settings' files, versions and device."""
    from lexalign.locate import find_model

    judges = [node for rewards in ground["rewards"] for node in rewards if isinstance(node.get("path"), str)]
    return digest(
        [
            ground,
            [identity.model_identity(Model(**model)) for model in ground["models"]],
            [identity.data_identity(Data(**data)) for data in ground["data"]],
            [identity.place_identity(find_model(node["path"]), node.get("revision"), "models") for node in judges],
            [identity.code_digest(package) for package in ("lexalign", *ground["extensions"])],
            identity.versions(),
            [settings_files(folder) for folder in (str(CONF), *config_dirs)],
            hardware.resolve_device("auto"),
        ]
    )


@cache
def settings_files(folder: str) -> str:
    """Digest of the YAML files of a folder."""
    files = sorted(Path(folder).rglob("*.yaml"))
    return digest([[str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])


def still_standing(grounds: dict[str, dict[str, Any]], config_dirs: Sequence[str]) -> set[str]:
    """Of the grounds that a ledger noted, by digest, those on which keys stand still."""
    found = set()
    for noted, ground in grounds.items():
        try:
            if standing(ground, config_dirs) == noted:
                found.add(noted)
        except (OSError, TypeError, LexAlignError):  # a file is gone, a setting is renamed: the points are composed and judged anew
            continue
    return found


def digest(material: Any) -> str:
    """sha256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(material, sort_keys=True, default=str).encode()).hexdigest()


def settings_of(asked: Asked, config_dirs: Sequence[str]) -> tuple[Sweep, Composed]:
    """The sweep's own settings, and the experiment of its first point."""
    first = composed(tuple(asked.to_check()[0]), tuple(config_dirs))
    return first.experiment.sweep, first


def place(asked: Asked, config_dirs: Sequence[str]) -> Path:
    """The sweep's folder. Raises ConfigError where a fresh one is asked for in a folder that holds one."""
    settings, first = settings_of(asked, config_dirs)
    typed = next((word.partition("=")[2] for word in asked.fixed if word.startswith("output_dir=")), None)
    if typed is None:
        return folder_of(asked, Path(settings.folder), fresh=settings.fresh)
    folder = Path(first.experiment.output_dir)
    if settings.fresh and is_sweep(folder):
        raise ConfigError(
            f"output_dir={folder}: holds a sweep already; sweep.fresh=true begins a new one, in another folder or in none named"
        )
    return folder
