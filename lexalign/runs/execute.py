"""One run in its folder: first its parent, then its stage, then its result."""

import dataclasses
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.utils import get_class, get_method
from omegaconf import OmegaConf

from lexalign.artifacts import disk, files, fingerprint, lock
from lexalign.artifacts.result import Result, write_result
from lexalign.config import hardware
from lexalign.config.compose import Composition
from lexalign.config.context import RunContext
from lexalign.config.origins import DECIDING, find_origins
from lexalign.config.paths import find_model
from lexalign.config.schema import Experiment
from lexalign.config.secrets import redact
from lexalign.errors import Stopped
from lexalign.runs import auto_strategy, torchrun
from lexalign.runs.parents import (
    compose_parent,
    find_finished_parent,
    get_parent_folder,
    get_parent_key,
    record_finished_run,
    run_parent,
    start_from_parent,
)
from lexalign.runs.resume import find_checkpoint, find_finished_run, refuse_changed_settings, refuse_other_sharding
from lexalign.runs.run_log import log_to_folder
from lexalign.training import signals

log = logging.getLogger(__name__)


def run_stage(composed: Composition, started_from: Experiment, context: RunContext, *, speaks: bool = True) -> Result:
    """Run the stage in this process. Of several processes only the first one logs to the tracker (`speaks`)."""
    with make_tracker(composed, context, silent=not speaks) as tracker:
        if started_from.model.path and (base := find_model(started_from.model.path)).kind == "run" and base.path:
            tracker.starts_from(base.path)
        return get_method(started_from.stage.target)(started_from, context.out_dir, tracker)


def make_tracker(composed: Composition, context: RunContext, *, silent: bool) -> Any:
    """The tracker named by `tracking._target_`. It is `NoTracker` for a dry run or if `silent`."""
    experiment = composed.experiment
    target = "lexalign.tracking.NoTracker" if experiment.dry_run or silent else experiment.tracking.target
    return get_class(target)(
        experiment.tracking,
        out_dir=context.out_dir,
        config=composed.tree,
        run_name=context.name,
        group=context.group,
        job_type=experiment.stage.name,
        typed=composed.typed,
    )


def execute(composed: Composition, context: RunContext) -> Result:
    """Run an experiment and write `config.yaml`, `run.log` and `result.json` into the folder of `context`.

    If the folder holds a finished run, nothing is changed and its result is returned. An unfinished run is resumed from its newest complete
    checkpoint. Raises ConfigError if that run has other settings, FolderInUse if another process uses the folder, Stopped if a signal or
    `train.stop_after` ends the run.
    """
    out_dir = context.out_dir
    experiment = dataclasses.replace(composed.experiment, output_dir=str(out_dir))
    if hardware.get_node_rank(experiment.hardware) and torchrun.uses_several_processes(experiment):
        return run_on_other_node(dataclasses.replace(composed, experiment=experiment), context)
    if (result := find_finished_run(experiment, context)) is not None:
        return result
    out_dir.mkdir(parents=True, exist_ok=True)
    with signals.handle_signals(), lock.hold_lock(out_dir) as previous_owner:
        # Check again: another process may have finished the run meanwhile.
        if (result := find_finished_run(experiment, context)) is not None:
            return result
        with log_to_folder(out_dir, verbose=experiment.verbose):
            if previous_owner:
                log.warning("%s left its lock on %s and is gone; it is taken over", previous_owner, out_dir)
            checkpoint = find_checkpoint(experiment, context)
            resolved = dataclasses.replace(experiment, resume=str(checkpoint) if checkpoint else "never")
            log_deciding_settings(composed, context)
            return run_in_folder(dataclasses.replace(composed, experiment=resolved), context)


def log_deciding_settings(composed: Composition, context: RunContext) -> None:
    """Log the options that follow from the model, and the settings that decide the result, with the place where each was set."""
    for note in composed.notes:
        log.info("%s", note)
    if composed.experiment.method is not None:
        origins = find_origins(DECIDING, composed.typed, context.sources)
        log.info("What decides the result: %s", ", ".join(str(origin) for origin in origins if origin.value is not None))


def run_on_other_node(composed: Composition, context: RunContext) -> Result:
    """Run the processes of a node that is not the first, and return the result. An unfinished parent is run first.

    Only the first node manages the run's folder.
    """
    experiment, out_dir = composed.experiment, context.out_dir
    if (result := find_finished_run(experiment, context)) is not None:
        return result
    out_dir.mkdir(parents=True, exist_ok=True)
    with (
        signals.handle_signals(),
        log_to_folder(out_dir, verbose=experiment.verbose, name=f"run.node{hardware.get_node_rank(experiment.hardware)}.log"),
    ):
        parent = None
        if experiment.model.parent is not None:
            parent_composition = compose_parent(experiment, context.sources)
            parent = find_finished_parent(experiment, context.sources)
            if parent is None:
                folder = get_parent_folder(experiment, get_parent_key(experiment, context.sources) or "")
                own_context = RunContext(out_dir=folder.resolve(), name=experiment.model.parent, sources=context.sources)
                parent = run_on_other_node(parent_composition, own_context)
        return torchrun.run_together(composed, start_from_parent(experiment, parent), context)


def run_in_folder(composed: Composition, context: RunContext) -> Result:
    """Do the run. No other process writes to its folder. `resume` names the checkpoint to resume from, or is never."""
    experiment, out_dir, start = composed.experiment, context.out_dir, time.monotonic()
    result = Result(status="failed", stage=experiment.stage.name, method=experiment.method.name if experiment.method else None)
    key = None
    try:
        with disk.require_space(None, out_dir, what="the run"):
            files.write_text(out_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create({**composed.tree, "output_dir": str(out_dir)})))
            parent = run_parent(experiment, context.sources, execute)
            key = fingerprint.make_content_key(experiment, parent=parent.key if parent else None)
            own_files = fingerprint.digest_local_files(experiment)
            started_from = auto_strategy.resolve_strategy(start_from_parent(experiment, parent))
            if experiment.resume != "never" and parent is not None:  # the parent may have been trained just now
                refuse_changed_settings(Path(experiment.resume), started_from, tell=False)
            if experiment.resume != "never":
                refuse_other_sharding(Path(experiment.resume), started_from)
            if torchrun.uses_several_processes(started_from):
                result = torchrun.run_together(composed, started_from, context)
            else:
                result = run_stage(composed, started_from, context)
            result.parent = parent.details["folder"] if parent else None
            result.key = key
            result.command = list(composed.typed)
            result.seconds = round(time.monotonic() - start, 3)
            write_result(out_dir, result)
    except BaseException as error:
        result.status = error.status if isinstance(error, Stopped) else "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        result.error = redact(f"{type(error).__name__}: {error}")
        result.key, result.command = key, list(composed.typed)
        result.seconds = round(time.monotonic() - start, 3)
        log.debug("The run ended:", exc_info=error)
        with suppress(OSError):  # the disk may be full; the first error matters more
            write_result(out_dir, result)
        raise
    if result.status == "finished":
        if fingerprint.digest_local_files(experiment) != own_files:
            log.warning("Files of the model or the data changed while the run was under way. Its result is not reused by other runs")
            return result
        record_finished_run(experiment, key, out_dir)
        # After the download, the name of a hub's branch means a fixed commit. The next run will use that key.
        key_now = fingerprint.make_content_key(experiment, parent=parent.key if parent else None)
        if key_now != key:
            record_finished_run(experiment, key_now, out_dir)
    return result
