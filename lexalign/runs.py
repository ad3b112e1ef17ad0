"""One run in its folder: its parent first, then its stage, then what it leaves behind."""

import dataclasses
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from omegaconf import OmegaConf

from lexalign import artifacts, hardware, identity
from lexalign.checkpoints import changes, disk, finding, lock, signals
from lexalign.compose import Composed, compose, parent_command
from lexalign.errors import ConfigError, Stopped
from lexalign.logs import logged
from lexalign.parse import plain
from lexalign.results import Result
from lexalign.schema import Experiment
from lexalign.secrets import redacted
from lexalign.staging import staged
from lexalign.torchrun import choice, start

log = logging.getLogger(__name__)


def execute(
    composed: Composed,
    *,
    out_dir: Path,
    name: str,
    group: str | None,
    config_dirs: Sequence[str] = (),
) -> Result:
    """Run an experiment whole and write `config.yaml`, `run.log` and `result.json` in `out_dir`.

    A run that is finished there is not touched: its result is returned. One that is not goes on from its newest whole checkpoint. Raises
    ConfigError where its settings are others, FolderInUse where another process is at it, Stopped where a signal or
    `train.stop_after` ends it.
    """
    experiment = dataclasses.replace(composed.experiment, output_dir=str(out_dir))
    if hardware.node_rank(experiment.hardware) and start.several(experiment):
        return helped(dataclasses.replace(composed, experiment=experiment), out_dir, name=name, config_dirs=config_dirs)
    if (done := finished_before(experiment, out_dir, config_dirs=config_dirs)) is not None:
        return done
    out_dir.mkdir(parents=True, exist_ok=True)
    with signals.heeded(), lock.held(out_dir) as left_by:
        # Once more: another process may have finished it meanwhile.
        if (done := finished_before(experiment, out_dir, config_dirs=config_dirs)) is not None:
            return done
        with logged(out_dir, verbose=experiment.verbose):
            if left_by:
                log.warning("%s left its lock on %s and is gone; it is taken over", left_by, out_dir)
            checkpoint = start_point(experiment, out_dir, config_dirs=config_dirs)
            resolved = dataclasses.replace(experiment, resume=str(checkpoint) if checkpoint else "never")
            return begun(dataclasses.replace(composed, experiment=resolved), out_dir, name=name, group=group, config_dirs=config_dirs)


def helped(composed: Composed, out_dir: Path, *, name: str, config_dirs: Sequence[str]) -> Result:
    """The processes of another node than the first, which alone looks after the run's folder; its result. A parent comes first here too."""
    experiment = composed.experiment
    if (done := finished_before(experiment, out_dir, config_dirs=config_dirs)) is not None:
        return done
    out_dir.mkdir(parents=True, exist_ok=True)
    with signals.heeded(), logged(out_dir, verbose=experiment.verbose, name=f"run.node{hardware.node_rank(experiment.hardware)}.log"):
        parent = None
        if experiment.model.parent is not None:
            above = compose_parent(experiment, config_dirs=config_dirs)
            parent = parent_at_hand(experiment, config_dirs=config_dirs)
            if parent is None:
                folder = parent_folder(experiment, parent_key(experiment, config_dirs=config_dirs) or "")
                parent = helped(above, folder.resolve(), name=experiment.model.parent, config_dirs=config_dirs)
        return start.together(composed, start_from(experiment, parent), out_dir, name=name, group=None)


def begun(composed: Composed, out_dir: Path, *, name: str, group: str | None, config_dirs: Sequence[str]) -> Result:
    """The run itself, which alone writes to its folder; `resume` names the checkpoint it starts from, or says never."""
    experiment, started = composed.experiment, time.monotonic()
    result = Result(status="failed", stage=experiment.stage.name, method=experiment.method.name if experiment.method else None)
    try:
        with disk.room_for(None, out_dir, what="the run"):
            artifacts.write_text(
                out_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create({**composed.tree, "output_dir": str(out_dir)}))
            )
            parent = run_parent(experiment, config_dirs=config_dirs)
            key = identity.content_key(experiment, parent=parent.key if parent else None)
            own_files = identity.local_identity(experiment)
            started_from = choice.settled(start_from(experiment, parent))
            if experiment.resume != "never" and parent is not None:  # it may have been trained only now
                refuse_changed(Path(experiment.resume), started_from, tell=False)
            if experiment.resume != "never":
                refuse_otherwise_shared(Path(experiment.resume), started_from)
            if start.several(started_from):
                result = start.together(composed, started_from, out_dir, name=name, group=group)
            else:
                result = staged(composed, started_from, out_dir, name=name, group=group)
            result.parent = parent.details["folder"] if parent else None
            result.key = key
            result.command = list(composed.typed)
            result.seconds = round(time.monotonic() - started, 3)
            artifacts.write_result(out_dir, result)
    except BaseException as error:
        result.status = error.status if isinstance(error, Stopped) else "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        result.error = redacted(f"{type(error).__name__}: {error}")
        result.seconds = round(time.monotonic() - started, 3)
        log.debug("The run ended:", exc_info=error)
        with suppress(OSError):  # on a full disk; what ended the run matters more
            artifacts.write_result(out_dir, result)
        raise
    if result.status == "finished":
        remember(experiment, key, out_dir)
        # A branch of a hub stands for a commit once it was fetched: the next run will ask for that key.
        settled = identity.content_key(experiment, parent=parent.key if parent else None)
        if settled != key and identity.local_identity(experiment) == own_files:
            remember(experiment, settled, out_dir)
    return result


def trains(experiment: Experiment) -> bool:
    """Whether the run makes an artifact of its own, and does not only look at what it would do."""
    return experiment.method is not None and not experiment.dry_run and experiment.preflight.mode != "only"


def finished_before(experiment: Experiment, out_dir: Path, *, config_dirs: Sequence[str]) -> Result | None:
    """The result of the run that was finished in this folder; None where there is none, or it is to go on with what `resume_allow` names.

    Raises ConfigError where it was another run.
    """
    if experiment.resume == "never" and finding.holds_run(out_dir):
        raise ConfigError(f"resume=never: {out_dir} already holds a run; name another output_dir, or type resume=auto")
    result, artifact = artifacts.read_result(out_dir), out_dir / "artifact"
    if not trains(experiment) or result is None or result.status != "finished":
        return None
    if broken := artifacts.damage(artifact):
        print(f"{out_dir} was finished, but {broken}: going on from its newest checkpoint", file=sys.stderr)
        return None
    now = identity.made_of(start_from(experiment, parent_at_hand(experiment, config_dirs=config_dirs)))
    differences = changes.changed(artifacts.read_manifest(artifact), now, measured=True)
    changes.refuse(differences, allowed=experiment.resume_allow, begun=f"output_dir={out_dir}: holds a run that was finished")
    if differences:
        return None
    score = f", {result.score_name} {result.score:.4f}" if result.score is not None else ""
    print(f"{out_dir}: finished already, nothing is run or changed{score}", file=sys.stderr)
    return result


def start_point(experiment: Experiment, out_dir: Path, *, config_dirs: Sequence[str]) -> Path | None:
    """The checkpoint to go on from, whole and of a run with these settings; what a killed run left half written is removed."""
    for folder in (out_dir, out_dir / finding.FOLDER):
        artifacts.forget_unfinished(folder)
    if not trains(experiment):
        return None
    checkpoint = finding.start_point(out_dir, experiment.resume)
    if checkpoint is not None:
        refuse_changed(checkpoint, start_from(experiment, parent_at_hand(experiment, config_dirs=config_dirs)))
    return checkpoint


def refuse_changed(checkpoint: Path, experiment: Experiment, *, tell: bool = True) -> None:
    """Raise ConfigError where the run of a checkpoint was begun with other settings than `resume_allow` lets differ; say what else does."""
    then, now = artifacts.read_manifest(checkpoint), identity.made_of(experiment)
    differences = changes.changed(then, now)
    changes.refuse(differences, allowed=experiment.resume_allow, begun=f"{checkpoint}: its run was begun")
    if differences and tell:
        told = "; ".join(f"{key}: {change}" for key, change in differences.items())
        log.warning("Going on with other settings (resume_allow): %s", told)
    versions = identity.versions()
    other = [
        f"{name} {then['versions'].get(name)} -> {versions[name]}" for name in versions if then["versions"].get(name) != versions[name]
    ]
    if other and tell:
        log.warning("Going on with other versions than the run was begun with: %s", ", ".join(other))


def refuse_otherwise_shared(checkpoint: Path, experiment: Experiment) -> None:
    """Raise ConfigError where a checkpoint's state was shared out in another way: the optimizer's would not be found, or begin anew."""
    then, now = artifacts.read_manifest(checkpoint).get("shared_out"), hardware.shared_out(experiment.hardware)
    if then != now:
        saved = f"in parts by {then}" if then else "whole"
        raise ConfigError(
            f"{checkpoint}: was saved {saved}, and {now or 'a run of whole models'} does not read that; "
            f"type {then or 'hardware=ddp'}, or another output_dir"
        )


def start_from(experiment: Experiment, parent: Result | None) -> Experiment:
    """The experiment with its parent's artifact as the model."""
    if parent is None or parent.artifact is None:
        return experiment
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, path=parent.artifact, parent=None))


def run_parent(experiment: Experiment, *, config_dirs: Sequence[str]) -> Result | None:
    """The finished parent: reused where an artifact with its content key is whole, run first otherwise; None without a parent."""
    name = experiment.model.parent
    if name is None:
        return None
    composed = compose_parent(experiment, config_dirs=config_dirs)
    grandparent = run_parent(composed.experiment, config_dirs=config_dirs)
    key = identity.content_key(composed.experiment, parent=grandparent.key if grandparent else None)
    store = Path(experiment.store)
    (store / "locks").mkdir(parents=True, exist_ok=True)
    # One of several concurrent children runs the parent; the others wait here and find it finished.
    with FileLock(store / "locks" / f"{key}.lock"):
        found = recall(store, key)
        if found is not None:
            log.info("Parent %s: reusing %s (key %s)", name, found.details["folder"], key[:12])
            return found
        folder = parent_folder(experiment, key)
        if experiment.dry_run:
            log.info("Parent %s: would run first, in %s (key %s)", name, folder, key[:12])
            # The model the parent would start from has the shape of the artifact that is not there yet.
            shape = composed.experiment.model.path or (grandparent.artifact if grandparent else None)
            return Result(status="planned", stage=composed.experiment.stage.name, key=key, artifact=shape, details={"folder": str(folder)})
        log.info("Parent %s: running first, in %s (key %s)", name, folder, key[:12])
        result = execute(composed, out_dir=folder.resolve(), name=name, group="parents", config_dirs=config_dirs)
        result.details["folder"] = str(folder)
        return result


def parent_folder(experiment: Experiment, key: str) -> Path:
    """Where the parent of this content key is run."""
    return Path(experiment.store) / "parents" / f"{(experiment.model.parent or '').replace('/', '-')}-{key[:12]}"


def parent_at_hand(experiment: Experiment, *, config_dirs: Sequence[str]) -> Result | None:
    """The parent where it is finished already; nothing is run."""
    key = parent_key(experiment, config_dirs=config_dirs)
    return recall(Path(experiment.store), key) if key else None


def parent_key(experiment: Experiment, *, config_dirs: Sequence[str]) -> str | None:
    """The content key of the parent; None without one."""
    if experiment.model.parent is None:
        return None
    parent = compose_parent(experiment, config_dirs=config_dirs).experiment
    return identity.content_key(parent, parent=parent_key(parent, config_dirs=config_dirs))


def compose_parent(experiment: Experiment, *, config_dirs: Sequence[str]) -> Composed:
    """The parent's experiment, on the child's hardware, tracker and deadline: where and how it is watched is no part of what it is."""
    composed = compose(parent_command(experiment), config_dirs=config_dirs)
    train, until = composed.experiment.train, experiment.train.stop_after if experiment.train else None
    shared = {
        "hardware": experiment.hardware,
        "tracking": dataclasses.replace(experiment.tracking, name=None, group=None),
        "store": experiment.store,
        "verbose": experiment.verbose,
        "train": dataclasses.replace(train, stop_after=until) if train else None,
    }
    child = dataclasses.replace(composed.experiment, **shared)
    return dataclasses.replace(
        composed, experiment=child, tree={**composed.tree, **{key: plain(value) for key, value in shared.items() if value is not None}}
    )


def remember(experiment: Experiment, key: str, out_dir: Path) -> None:
    """Note in the store which folder holds the finished run of a content key."""
    artifacts.write_text(Path(experiment.store) / "keys" / key, str(out_dir.resolve()))


def recall(store: Path, key: str) -> Result | None:
    """The finished run of a content key, its artifact checked against its manifest; None where there is none."""
    note = store / "keys" / key
    if not note.is_file():
        return None
    folder = Path(note.read_text(encoding="utf-8"))
    result = artifacts.read_result(folder)
    if result is None or result.status != "finished" or result.artifact is None:
        return None
    broken = artifacts.damage(Path(result.artifact)) if result.stage != "download" else artifacts.lost(result.details)
    if broken:
        log.warning("A finished run of key %s cannot be reused: %s", key[:12], broken)
        return None
    result.details["folder"] = str(folder)
    return result
