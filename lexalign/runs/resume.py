"""Decides whether a run is finished, from which checkpoint it resumes, and whether its settings allow that."""

import logging
import sys
from pathlib import Path

from lexalign.artifacts import checkpoints, files, fingerprint, settings_diff
from lexalign.artifacts.manifest import find_damage, read_manifest
from lexalign.artifacts.result import Result, read_result
from lexalign.config import hardware
from lexalign.config.context import RunContext
from lexalign.config.schema import Experiment
from lexalign.errors import ConfigError
from lexalign.runs.parents import find_finished_parent, start_from_parent

log = logging.getLogger(__name__)


def is_training_run(experiment: Experiment) -> bool:
    """Whether the run makes an artifact: it trains, and is not a dry run or a preflight only."""
    return experiment.method is not None and not experiment.dry_run and experiment.preflight.mode != "only"


def find_finished_run(experiment: Experiment, context: RunContext) -> Result | None:
    """The result of the finished run in this folder; None if there is none, or if it must continue with settings that `resume_allow` names.

    Raises ConfigError if the folder holds another run.
    """
    out_dir = context.out_dir
    if experiment.resume == "never" and checkpoints.holds_run(out_dir):
        raise ConfigError(f"resume=never: {out_dir} already holds a run; name another output_dir, or type resume=auto")
    result, artifact = read_result(out_dir), out_dir / "artifact"
    if not is_training_run(experiment) or result is None or result.status != "finished":
        return None
    if damage := find_damage(artifact):
        print(f"{out_dir} was finished, but {damage}: going on from its newest checkpoint", file=sys.stderr)
        return None
    now = fingerprint.describe_inputs(start_from_parent(experiment, find_finished_parent(experiment, context.sources)))
    differences = settings_diff.diff_settings(read_manifest(artifact), now, with_evaluation=True)
    settings_diff.refuse_differences(
        differences, allowed=experiment.resume_allow, opening=f"output_dir={out_dir}: holds a run that was finished"
    )
    if differences:
        return None
    score = f", {result.score_name} {result.score:.4f}" if result.score is not None else ""
    print(f"{out_dir}: finished already, nothing is run or changed{score}", file=sys.stderr)
    return result


def find_checkpoint(experiment: Experiment, context: RunContext) -> Path | None:
    """The complete checkpoint to resume from; None if there is none. Unfinished files of a killed run are removed.

    Raises ConfigError if the checkpoint belongs to a run with other settings.
    """
    for folder in (context.out_dir, context.out_dir / checkpoints.FOLDER):
        files.remove_unfinished(folder)
    if not is_training_run(experiment):
        return None
    checkpoint = checkpoints.find_start_point(context.out_dir, experiment.resume)
    if checkpoint is not None:
        refuse_changed_settings(checkpoint, start_from_parent(experiment, find_finished_parent(experiment, context.sources)))
    return checkpoint


def refuse_changed_settings(checkpoint: Path, experiment: Experiment, *, tell: bool = True) -> None:
    """Raise ConfigError if a checkpoint's run has other settings, except those in `resume_allow`. `tell` logs the allowed differences."""
    then, now = read_manifest(checkpoint), fingerprint.describe_inputs(experiment)
    differences = settings_diff.diff_settings(then, now)
    settings_diff.refuse_differences(differences, allowed=experiment.resume_allow, opening=f"{checkpoint}: its run was begun")
    if differences and tell:
        changes = "; ".join(f"{key}: {change}" for key, change in differences.items())
        log.warning("Going on with other settings (resume_allow): %s", changes)
    versions = fingerprint.list_versions()
    version_changes = [
        f"{name} {then['versions'].get(name)} -> {versions[name]}" for name in versions if then["versions"].get(name) != versions[name]
    ]
    if version_changes and tell:
        log.warning("Going on with other versions than the run was begun with: %s", ", ".join(version_changes))


def refuse_other_sharding(checkpoint: Path, experiment: Experiment) -> None:
    """Raise ConfigError if a checkpoint's state was sharded in another way. The state of the optimizer would be lost."""
    then, now = read_manifest(checkpoint).get("shared_out"), hardware.get_sharding(experiment.hardware)
    if then != now:
        state = f"in parts by {then}" if then else "whole"
        raise ConfigError(
            f"{checkpoint}: was saved {state}, and {now or 'a run of whole models'} does not read that; "
            f"type {then or 'hardware=ddp'}, or another output_dir"
        )
