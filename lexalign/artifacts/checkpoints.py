"""Which checkpoint to go on from: the newest that is whole. A damaged one is put aside, and that is said."""

import logging
import shutil
from pathlib import Path

from lexalign.artifacts.files import ASIDE
from lexalign.artifacts.fingerprint import digest_bytes
from lexalign.artifacts.manifest import MANIFEST, find_damage, read_manifest
from lexalign.artifacts.result import read_result
from lexalign.errors import ConfigError

log = logging.getLogger(__name__)
FOLDER = "checkpoints"
PREFIX = "checkpoint-"
DAMAGED = ".damaged-"


def get_step(checkpoint: Path) -> int:
    """The step a checkpoint's name tells; -1 for a folder that is none."""
    number = checkpoint.name.removeprefix(PREFIX)
    return int(number) if checkpoint.name.startswith(PREFIX) and number.isdecimal() else -1


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by step."""
    return sorted((path for path in folder.glob(f"{PREFIX}*") if get_step(path) >= 0 and path.is_dir()), key=get_step)


def inspect_checkpoint(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, every byte of it read; None where it is whole."""
    broken = find_damage(checkpoint, digest=digest_bytes)
    if broken is None and (step := read_manifest(checkpoint).get("step")) != get_step(checkpoint):
        return f"{checkpoint / MANIFEST} is of step {step}"
    return broken


def find_newest_whole(folder: Path, *, own: bool) -> Path | None:
    """The newest whole checkpoint in a folder; damaged ones are passed over, and renamed where the folder is our `own`."""
    for checkpoint in reversed(list_checkpoints(folder)):
        broken = inspect_checkpoint(checkpoint)
        if broken is None:
            return checkpoint
        log.warning("%s is damaged and not used: %s%s", checkpoint, broken, f"; now {set_aside(checkpoint).name}" if own else "")
    return None


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint to a name that no run takes for one."""
    number, name = 1, checkpoint.with_name(DAMAGED + checkpoint.name)
    while name.exists():
        number += 1
        name = checkpoint.with_name(f"{DAMAGED}{checkpoint.name}-{number}")
    return checkpoint.rename(name)


def find_start_point(out_dir: Path, resume: str) -> Path | None:
    """The checkpoint that a run in `out_dir` goes on from: its own newest, else that of the run or the checkpoint `resume` names.

    Raises ConfigError where what is named holds nothing whole.
    """
    own = out_dir / FOLDER
    found = find_newest_whole(own, own=True)
    if found is not None or resume in ("auto", "never"):
        return found
    named = Path(resume).expanduser()
    if (named / FOLDER).is_dir():
        found, broken = find_newest_whole(named / FOLDER, own=False), "it holds no whole checkpoint"
    else:
        broken = inspect_checkpoint(named) or ""
        found = None if broken else named
    if found is None:
        raise ConfigError(f"resume={resume}: {broken}; name another run or checkpoint, or type resume=auto")
    return found


def holds_run(out_dir: Path) -> bool:
    """Whether a run has left something in a folder that another would overwrite."""
    result = read_result(out_dir)
    return bool(list_checkpoints(out_dir / FOLDER)) or (result is not None and result.status != "planned")


def prune_checkpoints(folder: Path, *, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints; killed meanwhile, none is left half removed under its name."""
    for checkpoint in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(checkpoint.rename(checkpoint.with_name(f"{ASIDE}{checkpoint.name}")), ignore_errors=True)
