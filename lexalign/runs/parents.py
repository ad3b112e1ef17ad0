"""The parent of a run. It is found by its content key, or run first if there is no finished one."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from lexalign.artifacts import files, fingerprint
from lexalign.artifacts.manifest import find_damage, find_lost_files
from lexalign.artifacts.result import Result, read_result
from lexalign.config.compose import Composition, compose, get_parent_command
from lexalign.config.context import RunContext
from lexalign.config.loading import Sources
from lexalign.config.parsing import to_plain
from lexalign.config.paths import find_moved
from lexalign.config.schema import Experiment

log = logging.getLogger(__name__)


def start_from_parent(experiment: Experiment, parent: Result | None) -> Experiment:
    """The experiment with its parent's artifact as the model."""
    if parent is None or parent.artifact is None:
        return experiment
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, path=parent.artifact, parent=None))


def run_parent(experiment: Experiment, sources: Sources, execute: Callable[[Composition, RunContext], Result]) -> Result | None:
    """The result of the finished parent; None without a parent. A complete artifact with its content key is reused; else it is run."""
    name = experiment.model.parent
    if name is None:
        return None
    composed = compose_parent(experiment, sources)
    grandparent = run_parent(composed.experiment, sources, execute)
    key = fingerprint.make_content_key(composed.experiment, parent=grandparent.key if grandparent else None)
    store = Path(experiment.store)
    # If several children start together, one runs the parent. The others wait here and reuse it. A dry run writes nothing.
    with contextlib.nullcontext() if experiment.dry_run else lock_key(store, key):
        finished_run = recall_finished_run(store, key)
        if finished_run is not None:
            log.info("Parent %s: reusing %s (key %s)", name, finished_run.details["folder"], key[:12])
            return finished_run
        folder = get_parent_folder(experiment, key)
        if experiment.dry_run:
            log.info("Parent %s: would run first, in %s (key %s)", name, folder, key[:12])
            # The parent's start model has the same shape as its artifact, which does not exist yet.
            shape = composed.experiment.model.path or (grandparent.artifact if grandparent else None)
            return Result(status="planned", stage=composed.experiment.stage.name, key=key, artifact=shape, details={"folder": str(folder)})
        log.info("Parent %s: running first, in %s (key %s)", name, folder, key[:12])
        result = execute(composed, RunContext(out_dir=folder.resolve(), name=name, group="parents", sources=sources))
        result.details["folder"] = str(folder)
        return result


def lock_key(store: Path, key: str) -> FileLock:
    """The lock of a content key in the store."""
    (store / "locks").mkdir(parents=True, exist_ok=True)
    return FileLock(store / "locks" / f"{key}.lock")


def get_parent_folder(experiment: Experiment, key: str) -> Path:
    """The folder of the parent with this content key."""
    return Path(experiment.store) / "parents" / f"{(experiment.model.parent or '').replace('/', '-')}-{key[:12]}"


def find_finished_parent(experiment: Experiment, sources: Sources) -> Result | None:
    """The result of the parent if it is already finished, else None. Nothing is run."""
    key = get_parent_key(experiment, sources)
    return recall_finished_run(Path(experiment.store), key) if key else None


def get_parent_key(experiment: Experiment, sources: Sources) -> str | None:
    """The content key of the parent; None without one."""
    if experiment.model.parent is None:
        return None
    parent = compose_parent(experiment, sources).experiment
    return fingerprint.make_content_key(parent, parent=get_parent_key(parent, sources))


def compose_parent(experiment: Experiment, sources: Sources) -> Composition:
    """The parent's experiment, with the hardware, tracker, store and deadline of the child. These do not change its content key."""
    composed = compose(get_parent_command(experiment), sources, ancestors=(experiment.model.parent or "",))
    train, stop_after = composed.experiment.train, experiment.train.stop_after if experiment.train else None
    shared: dict[str, Any] = {
        "hardware": experiment.hardware,
        "tracking": dataclasses.replace(experiment.tracking, name=None, group=None),
        "store": experiment.store,
        "verbose": experiment.verbose,
        "train": dataclasses.replace(train, stop_after=stop_after) if train else None,
    }
    child = dataclasses.replace(composed.experiment, **shared)
    return dataclasses.replace(
        composed, experiment=child, tree={**composed.tree, **{key: to_plain(value) for key, value in shared.items() if value is not None}}
    )


def record_finished_run(experiment: Experiment, key: str, out_dir: Path) -> None:
    """Write into the store which folder holds the finished run of a content key. The path is relative if both would be moved together."""
    store, folder = Path(experiment.store).resolve(), out_dir.resolve()
    project = store.parent.parent  # of multirun/.store
    moves_along = folder.is_relative_to(project) and project != Path(project.anchor)
    files.write_text(store / "keys" / key, os.path.relpath(folder, store) if moves_along else str(folder))


def recall_finished_run(store: Path, key: str) -> Result | None:
    """The result of the finished run with a content key; None if there is none, or if its artifact does not match its manifest."""
    note = store / "keys" / key
    if not note.is_file():
        return None
    text = note.read_text(encoding="utf-8")
    folder = (store / text).resolve()
    if not folder.is_dir():
        folder = find_moved(text, store) or folder
    result = read_result(folder)
    if result is None or result.status != "finished" or result.artifact is None:
        return None
    damage = find_damage(Path(result.artifact)) if result.stage != "download" else find_lost_files(result.details)
    if damage:
        log.warning("A finished run of key %s cannot be reused: %s", key[:12], damage)
        return None
    result.details["folder"] = str(folder)
    return result
