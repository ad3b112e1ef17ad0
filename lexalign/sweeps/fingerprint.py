"""What makes two command lines one sweep, and a job of an earlier call the same job now."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lexalign.artifacts import fingerprint
from lexalign.artifacts.files import is_sweep
from lexalign.config import hardware
from lexalign.config.compose import Composition, compose, get_parent_command
from lexalign.config.loading import Sources
from lexalign.config.overrides import get_key
from lexalign.config.paths import CONF
from lexalign.config.schema import Data, Experiment, Model, RewardMethod, Sweep
from lexalign.errors import ConfigError, LexAlignError
from lexalign.runs import parents
from lexalign.sweeps.points import SweepRequest, belongs_to_sweep

PARENTS: dict[tuple[Any, ...], Experiment] = {}
"""Parents by what is typed for them and what they take from their children: the points of a sweep share theirs."""
LONGEST = 60
"""Characters of the part of a folder's name that tells what is swept."""
NOT_THE_SWEEP = ("tracking", "store", "verbose", "resume", "cache")
"""Settings that change where a sweep is seen or kept, not what it is."""


def make_sweep_key(asked: SweepRequest) -> str:
    """Digest of what is swept and what is fixed, the values excepted: a sweep to which a value is added stays itself."""
    fixed = sorted(o for o in asked.fixed if not belongs_to_sweep(get_key(o)) and get_key(o).split(".")[0] not in NOT_THE_SWEEP)
    return digest_json([fixed, sorted({axis.key for axis in asked.axes}), asked.sampler != "grid"])


def find_folder(asked: SweepRequest, below: Path, *, fresh: bool) -> Path:
    """Where the sweep of a command line is, or will be, that gives no `output_dir`; a `fresh` one gets a folder with the next number."""
    swept = "+".join(axis.key.replace("/", ".") for axis in asked.axes) or "one"
    name = f"{swept[:LONGEST]}-{make_sweep_key(asked)[:8]}"
    numbers = [1, *(int(path.suffix[1:]) for path in below.glob(f"{name}.*") if path.suffix[1:].isdigit())]
    there = below / name
    number = max(numbers) + fresh * (there.exists() or len(numbers) > 1)
    return there if number == 1 else below / f"{name}.{number}"


@cache
def compose_point(overrides: tuple[str, ...], sources: Sources) -> Composition:
    """A point's experiment; composed once in a process."""
    return compose(overrides, sources)


def list_ancestors(experiment: Experiment, sources: Sources) -> list[Experiment]:
    """The experiments that a run starts from, nearest first."""
    found: list[Experiment] = []
    while experiment.model.parent is not None:
        same = (*get_parent_command(experiment), experiment.hardware, experiment.store, sources)
        if same not in PARENTS:
            PARENTS[same] = parents.compose_parent(experiment, sources).experiment
        experiment = PARENTS[same]
        found.append(experiment)
    return found


def make_job_keys(line: Sequence[Experiment]) -> tuple[str, str | None]:
    """Content keys of a run and of its parent; `line` is the run and its `ancestors`."""
    parent = None
    for experiment in reversed(line[1:]):
        parent = fingerprint.make_content_key(experiment, parent=parent)
    return fingerprint.make_content_key(line[0], parent=parent), parent


# A key costs a composition of its point. Ten thousand of them cost minutes, so a ledger also notes what its keys stood on beside the words
# that were typed: where that is the same, so are the keys.


def list_inputs(line: Sequence[Experiment]) -> dict[str, Any]:
    """What the keys of `line` read from outside the settings: the places of models, data and rewards, and the code of extensions."""
    return {
        "models": [dataclasses.asdict(experiment.model) for experiment in line],
        "data": [dataclasses.asdict(experiment.data) for experiment in line],
        "rewards": [e.method.rewards for e in line if isinstance(e.method, RewardMethod)],
        "extensions": line[0].extensions,
    }


def digest_inputs(ground: dict[str, Any], sources: Sources) -> str:
    """Digest of what is there now at the places of a `ground`, and of code, settings' files, versions and device."""
    from lexalign.config.paths import find_model

    judges = [node for rewards in ground["rewards"] for node in rewards if isinstance(node.get("path"), str)]
    return digest_json(
        [
            ground,
            [fingerprint.fingerprint_model(Model(**model)) for model in ground["models"]],
            [fingerprint.fingerprint_data(Data(**data)) for data in ground["data"]],
            [fingerprint.fingerprint_location(find_model(node["path"]), node.get("revision"), "models") for node in judges],
            [fingerprint.digest_code(package) for package in ("lexalign", *ground["extensions"])],
            fingerprint.list_versions(),
            [digest_settings_files(folder) for folder in (str(CONF), *sources.folders)],
            hardware.resolve_device("auto"),
        ]
    )


@cache
def digest_settings_files(folder: str) -> str:
    """Digest of the YAML files of a folder."""
    files = sorted(Path(folder).rglob("*.yaml"))
    return digest_json([[str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])


def list_unchanged_inputs(grounds: dict[str, dict[str, Any]], sources: Sources) -> set[str]:
    """Of the grounds that a ledger noted, by digest, those on which keys stand still."""
    found = set()
    for noted, ground in grounds.items():
        try:
            if digest_inputs(ground, sources) == noted:
                found.add(noted)
        except (OSError, TypeError, LexAlignError):  # a file is gone, a setting is renamed: the points are composed and judged anew
            continue
    return found


def digest_json(material: Any) -> str:
    """sha256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(material, sort_keys=True, default=str).encode()).hexdigest()


def read_sweep_settings(asked: SweepRequest) -> tuple[Sweep, Composition]:
    """The sweep's own settings, and the experiment of its first point."""
    first = compose_point(tuple(asked.to_check()[0]), asked.sources)
    return first.experiment.sweep, first


def claim_folder(asked: SweepRequest) -> Path:
    """The sweep's folder. Raises ConfigError where a fresh one is asked for in a folder that holds one."""
    settings, first = read_sweep_settings(asked)
    typed = next((word.partition("=")[2] for word in asked.fixed if word.startswith("output_dir=")), None)
    if typed is None:
        return find_folder(asked, Path(settings.folder), fresh=settings.fresh)
    folder = Path(first.experiment.output_dir)
    if settings.fresh and is_sweep(folder):
        raise ConfigError(
            f"output_dir={folder}: holds a sweep already; sweep.fresh=true begins a new one, in another folder or in none named"
        )
    return folder
