"""Read the folder of a run: its settings, result, curves and last lines of output."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from lexalign.artifacts.files import LEDGER
from lexalign.artifacts.fingerprint import UNTRAINED
from lexalign.artifacts.result import Result, read_result
from lexalign.artifacts.settings_diff import list_leaves
from lexalign.errors import ConfigError
from lexalign.sweeps.ledger import STATES, Job, State

CONFIG = "config.yaml"
SWEEP_NOTE = "multirun.yaml"
"""In a sweep's folder: its command line, and what tells it from other sweeps."""
LOGS = ("job.out", "run.log")
LAST_LINES = 15
LAST_BYTES = 16384
# Of a terminal's language: colours, the cursor, and the bell. A tab may stay.
CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
CODE = ("._target_", ".settings_class", ".score", "method.needs")
"""Settings that follow from the choice of a method or a stage, by how they end or begin."""
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_job(folder: Path) -> Job:
    """A single run as a job; raises ConfigError where the folder holds none."""
    if (folder / SWEEP_NOTE).is_file() and not (folder / CONFIG).is_file():
        raise ConfigError(f"report: {folder} is a sweep whose {LEDGER} is lost; type the sweep's command again, which rebuilds it")
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"report: {folder} is neither a sweep ({LEDGER}) nor a run ({CONFIG}); name the folder of one")
    try:
        result = read_result(folder)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"report: {folder / 'result.json'} cannot be read ({error}); leave this run out") from error
    if result is None:
        return Job(key="", number=0, overrides=[], state="interrupted", reason="no result.json: killed, or still running")
    return Job(
        key=result.key or "",
        number=0,
        overrides=[],
        stage=result.stage,
        method=result.method,
        state=get_state(result),
        seconds=result.seconds or 0.0,
        steps=count_steps(folder),
        score=result.score,
        score_name=result.score_name,
        score_direction=result.score_direction,
        metrics=result.metrics.get("after", {}),
        reason=result.error,
    )


def get_state(result: Result) -> State:
    """A ledger's word for how a run ended."""
    if result.status in STATES:
        return cast(State, result.status)
    return "interrupted"


def count_steps(folder: Path) -> int | None:
    """The last step that a run logged."""
    log_lines = read_log(folder)
    return log_lines[-1]["step"] if log_lines else None


def read_settings(folder: Path) -> dict[str, str]:
    """Return a run's settings that decide its artifact, as they are typed (method for method.name)."""
    tree = yaml.load((folder / CONFIG).read_text(encoding="utf-8"), Loader=Loader)  # a SafeLoader either way
    deciding = {key: value for key, value in tree.items() if key not in UNTRAINED}
    settings = {key: format_typed(value) for key, value in list_leaves(deciding) if not key.endswith(CODE) and not key.startswith(CODE)}
    return {key.removesuffix(".name") if key in ("method.name", "stage.name") else key: text for key, text in settings.items()}


def list_differing(folders: Sequence[Path]) -> list[dict[str, str]]:
    """Of each run, the settings that are not the same in all."""
    trees = [read_settings(folder) for folder in folders]
    differing_keys = [key for key in dict.fromkeys(key for tree in trees for key in tree) if len({tree.get(key) for tree in trees}) > 1]
    return [{key: tree[key] for key in differing_keys if key in tree} for tree in trees]


def format_typed(value: Any) -> str:
    """A value of YAML as one would type it."""
    if isinstance(value, str):
        return value
    return "null" if value is None else json.dumps(value, ensure_ascii=False)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl` that were logged while training. An incomplete line, which is being written, is left out."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    log_lines = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int) and "train_runtime" not in entry:
            log_lines.append(entry)
    return log_lines


def read_last_lines(folder: Path) -> dict[str, str]:
    """Return the last lines of a run's output, by file, without colours and control characters."""
    texts = {}
    for name in LOGS:
        try:
            with (folder / name).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - LAST_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            continue
        lines = [strip_control_characters(line) for line in text.split("\n")]
        if last_lines := [line for line in lines if line.strip()][-LAST_LINES:]:
            texts[name] = "\n".join(last_lines)
    return texts


def strip_control_characters(line: str) -> str:
    """A line without control characters; of a progress bar that was drawn over itself, the last one."""
    return CONTROL.sub("", line.rstrip("\r").rsplit("\r", 1)[-1])
