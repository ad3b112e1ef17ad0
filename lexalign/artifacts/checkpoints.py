"""Which checkpoint to go on from: the newest that is whole. A damaged one is put aside, and that is said."""

import logging
import shutil
from pathlib import Path

from lexalign.artifacts.files import ASIDE
from lexalign.artifacts.manifest import MANIFEST, find_damage, read_manifest
from lexalign.artifacts.result import read_result
from lexalign.errors import ConfigError

log = logging.getLogger(__name__)
FOLDER = "checkpoints"
PREFIX = "checkpoint-"
DAMAGED = ".damaged-"


def get_step(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name; -1 for a folder that is no checkpoint."""
    number = checkpoint.name.removeprefix(PREFIX)
    return int(number) if checkpoint.name.startswith(PREFIX) and number.isdecimal() else -1


def list_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, sorted by step."""
    return sorted((path for path in folder.glob(f"{PREFIX}*") if get_step(path) >= 0 and path.is_dir()), key=get_step)


def inspect_checkpoint(checkpoint: Path) -> str | None:
    """Read every byte of a checkpoint and return what is damaged; None if it is whole."""
    broken = find_damage(checkpoint)
    if broken is None and (step := read_manifest(checkpoint).get("step")) != get_step(checkpoint):
        return f"{checkpoint / MANIFEST} is of step {step}"
    return broken


def find_newest_whole(folder: Path, *, own: bool) -> Path | None:
    """Return the newest whole checkpoint in a folder. Damaged ones are skipped, and renamed if the folder is the run's `own`."""
    for checkpoint in reversed(list_checkpoints(folder)):
        broken = inspect_checkpoint(checkpoint)
        if broken is None:
            return checkpoint
        log.warning("%s is damaged and not used: %s%s", checkpoint, broken, f"; now {set_aside(checkpoint).name}" if own else "")
    return None


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint, so that no run resumes from it."""
    number, name = 1, checkpoint.with_name(DAMAGED + checkpoint.name)
    while name.exists():
        number += 1
        name = checkpoint.with_name(f"{DAMAGED}{checkpoint.name}-{number}")
    return checkpoint.rename(name)


def find_start_point(out_dir: Path, resume: str) -> Path | None:
    """Return the checkpoint that a run in `out_dir` resumes from: its own newest, else the one that `resume` names.

    Raises ConfigError if `resume` names a folder without a whole checkpoint.
    """
    own = out_dir / FOLDER
    checkpoint = find_newest_whole(own, own=True)
    if checkpoint is not None or resume in ("auto", "never"):
        return checkpoint
    source = Path(resume).expanduser()
    if (source / FOLDER).is_dir():
        checkpoint, broken = find_newest_whole(source / FOLDER, own=False), "it holds no whole checkpoint"
    else:
        broken = inspect_checkpoint(source) or ""
        checkpoint = None if broken else source
    if checkpoint is None:
        raise ConfigError(f"resume={resume}: {broken}; name another run or checkpoint, or type resume=auto")
    return checkpoint


def holds_run(out_dir: Path) -> bool:
    """Return whether a folder holds the files of a run, which another run would overwrite."""
    result = read_result(out_dir)
    return bool(list_checkpoints(out_dir / FOLDER)) or (result is not None and result.status != "planned")


def prune_checkpoints(folder: Path, *, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints. Each is renamed first: a kill leaves no half checkpoint under a valid name."""
    for checkpoint in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(checkpoint.rename(checkpoint.with_name(f"{ASIDE}{checkpoint.name}")), ignore_errors=True)
