"""Decide whether two command lines are one sweep, and whether a job of an earlier call is the same job now."""

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
from lexalign.config.compose import Composition, get_parent_command
from lexalign.config.loading import Sources
from lexalign.config.overrides import get_key
from lexalign.config.schema import Data, Experiment, Model, RewardMethod, Sweep
from lexalign.errors import ConfigError, LexAlignError
from lexalign.runs import parents
from lexalign.sweeps.conditions import compose_point, drop_unknown, drop_unread
from lexalign.sweeps.points import SweepRequest, belongs_to_sweep

PARENTS: dict[tuple[Any, ...], Experiment] = {}
"""Parents by what is typed for them and what they take from their children: the points of a sweep share theirs."""
LONGEST = 60
"""Characters of the part of a folder's name that tells what is swept."""
NOT_THE_SWEEP = ("tracking", "store", "verbose", "resume", "cache")
"""Settings that change where a sweep is seen or kept, not what it is."""


def make_sweep_key(request: SweepRequest) -> str:
    """Return a digest of the settings that vary (without their values) and of those that do not. Adding a value does not change it."""
    deciding = sorted(
        o for o in request.fixed_overrides if not belongs_to_sweep(get_key(o)) and get_key(o).split(".")[0] not in NOT_THE_SWEEP
    )
    return digest_json([deciding, sorted(request.keys), request.sampler != "grid"])


def find_folder(request: SweepRequest, below: Path, *, fresh: bool) -> Path:
    """Return the folder of a sweep that is given no `output_dir`. A `fresh` sweep gets a new folder with the next number."""
    axes_name = "+".join(key.replace("/", ".") for key in request.keys) or "one"
    name = f"{axes_name[:LONGEST]}-{make_sweep_key(request)[:8]}"
    numbers = [1, *(int(path.suffix[1:]) for path in below.glob(f"{name}.*") if path.suffix[1:].isdigit())]
    first_folder = below / name
    number = max(numbers) + fresh * (first_folder.exists() or len(numbers) > 1)
    return first_folder if number == 1 else below / f"{name}.{number}"


def list_ancestors(experiment: Experiment, sources: Sources) -> list[Experiment]:
    """The experiments that a run starts from, nearest first."""
    ancestors: list[Experiment] = []
    while experiment.model.parent is not None:
        command_key = (*get_parent_command(experiment), experiment.hardware, experiment.store, sources)
        if command_key not in PARENTS:
            PARENTS[command_key] = parents.compose_parent(experiment, sources).experiment
        experiment = PARENTS[command_key]
        ancestors.append(experiment)
    return ancestors


def make_job_keys(line: Sequence[Experiment]) -> tuple[str, str | None]:
    """Content keys of a run and of its parent; `line` is the run and its `ancestors`."""
    parent = None
    for experiment in reversed(line[1:]):
        parent = fingerprint.make_content_key(experiment, parent=parent)
    return fingerprint.make_content_key(line[0], parent=parent), parent


# To compute a key, its point must be composed. For ten thousand points this takes minutes. So the ledger also stores a digest of everything
# else that a key depends on: where words and digest are the same, the key is the same.


def list_inputs(line: Sequence[Experiment]) -> dict[str, Any]:
    """List what the keys of `line` depend on outside of the settings: places of models, data and rewards, and the code of extensions."""
    return {
        "models": [dataclasses.asdict(experiment.model) for experiment in line],
        "data": [dataclasses.asdict(experiment.data) for experiment in line],
        "rewards": [e.method.rewards for e in line if isinstance(e.method, RewardMethod)],
        "extensions": line[0].extensions,
    }


def digest_inputs(inputs: dict[str, Any], sources: Sources) -> str:
    """Return a digest of what is now at the places in `inputs`, and of code, configuration files, versions and device."""
    from lexalign.config.paths import find_model

    judges = [node for rewards in inputs["rewards"] for node in rewards if isinstance(node.get("path"), str)]
    return digest_json(
        [
            inputs,
            [fingerprint.fingerprint_model(Model(**model)) for model in inputs["models"]],
            [fingerprint.fingerprint_data(Data(**data)) for data in inputs["data"]],
            [fingerprint.fingerprint_location(find_model(node["path"]), node.get("revision"), "models") for node in judges],
            [fingerprint.digest_code(package) for package in ("lexalign", *inputs["extensions"])],
            fingerprint.list_versions(),
            [digest_settings_files(str(folder)) for folder in sources.list_folders()],
            hardware.resolve_device("auto"),
        ]
    )


@cache
def digest_settings_files(folder: str) -> str:
    """Digest of the YAML files of a folder."""
    files = sorted(Path(folder).rglob("*.yaml"))
    return digest_json([[str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])


def list_unchanged_inputs(noted_inputs: dict[str, dict[str, Any]], sources: Sources) -> set[str]:
    """Return the digests of those inputs, out of the ones in a ledger, that have not changed since."""
    unchanged = set()
    for digest, inputs in noted_inputs.items():
        try:
            if digest_inputs(inputs, sources) == digest:
                unchanged.add(digest)
        except (OSError, TypeError, LexAlignError):  # a file is gone, a setting is renamed: the points are composed and judged anew
            continue
    return unchanged


def digest_json(material: Any) -> str:
    """sha256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(material, sort_keys=True, default=str).encode()).hexdigest()


def read_sweep_settings(request: SweepRequest) -> tuple[Sweep, Composition]:
    """The sweep's own settings, and the experiment of its first point."""
    known, _ = drop_unknown(request.list_points_to_check()[0], request)
    point, _ = drop_unread(tuple(known), request.sources)
    first = compose_point(point, request.sources)
    return first.experiment.sweep, first


def claim_folder(request: SweepRequest) -> Path:
    """Return the sweep's folder. Raises ConfigError for `sweep.fresh=true` with an `output_dir` that holds a sweep."""
    settings, first = read_sweep_settings(request)
    typed_folder = next((word.partition("=")[2] for word in request.fixed_overrides if word.startswith("output_dir=")), None)
    if typed_folder is None:
        return find_folder(request, Path(settings.folder), fresh=settings.fresh)
    folder = Path(first.experiment.output_dir)
    if settings.fresh and is_sweep(folder):
        raise ConfigError(
            f"output_dir={folder}: holds a sweep already; sweep.fresh=true begins a new one, in another folder or in none named"
        )
    return folder
