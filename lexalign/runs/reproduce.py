"""`reproduce=<run folder>`: repeats a finished run from its recorded settings and compares the artifacts byte by byte."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lexalign.artifacts import settings_diff
from lexalign.artifacts.files import ADAPTER_CONFIG
from lexalign.artifacts.manifest import MANIFEST, find_damage, read_manifest
from lexalign.artifacts.result import read_result
from lexalign.artifacts.settings_diff import shorten_digest
from lexalign.config import compose
from lexalign.config.context import RunContext
from lexalign.config.schema import Experiment
from lexalign.errors import ConfigError
from lexalign.runs import execute

TRACKER = "lexalign.tracking.NoTracker"


def reproduce_run(folder: str, experiment: Experiment) -> bool:
    """Repeat the run in `folder` in `experiment.output_dir`. Returns whether its artifact has the same bytes; prints the differences."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    then, tree = read_recorded_run(Path(folder).expanduser())
    out_dir = Path(experiment.output_dir)
    tree |= {"output_dir": str(out_dir), "store": experiment.store, "resume": "never", "resume_allow": []}
    tree["tracking"] = dict.fromkeys(tree["tracking"]) | {"_target_": TRACKER}
    if date := (then.get("rendering") or {}).get("template_date"):
        tree["data"]["template_date"] = date  # the chat template used this date as today
    composed = compose.load_recorded(tree, dataclasses.replace(experiment, resume="never"))
    execute.execute(composed, RunContext(out_dir=out_dir, name=f"reproduce {folder}"))
    now = read_manifest(out_dir / "artifact")
    input_changes = compare_inputs(then, now)
    for key, change in input_changes.items():
        console.print(f"input {key}: {change}")
    changed_files = [
        name for name in {**then["files"], **now["files"]} if digest_artifact_file(then, name) != digest_artifact_file(now, name)
    ]
    if ADAPTER_CONFIG in changed_files and differs_by_base_path(Path(folder).expanduser() / "artifact", out_dir / "artifact"):
        changed_files.remove(ADAPTER_CONFIG)
        console.print(f"{ADAPTER_CONFIG}: the same but for the path of the base on this machine")
    for name in changed_files:
        console.print(
            f"{name}: sha256 {shorten_digest(digest_artifact_file(then, name))} -> {shorten_digest(digest_artifact_file(now, name))}"
        )
    if not changed_files:
        console.print(f"{folder} is reproduced in {out_dir}: all {len(then['files'])} files of its artifact are the same to the byte")
        return True
    first = next(iter(input_changes), None)
    cause = (
        f"the first input that differs is {first}"
        if first
        else "no recorded input differs, so an algorithm gave other bits: deterministic=strict names it"
    )
    console.print(f"{folder} is not reproduced: {len(changed_files)} of {len(then['files'])} files differ; {cause}")
    return False


def read_recorded_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest of a run's artifact and its resolved settings. Raises ConfigError if the folder holds no finished run."""
    result = read_result(folder)
    if result is None or result.status != "finished" or not (folder / "artifact" / MANIFEST).is_file():
        raise ConfigError(f"reproduce={folder}: holds no finished run that made a model; name the folder of an sft or align run")
    if damage := find_damage(folder / "artifact"):
        raise ConfigError(f"reproduce={folder}: {damage}; there is nothing whole to compare with")
    tree = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return read_manifest(folder / "artifact"), tree


def compare_inputs(then: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """The differences in the inputs of an artifact, in this order: settings, data, model, rows, code, versions, machine."""
    differences = {key: change for key, change in settings_diff.diff_settings(then, now).items() if key != "data.template_date"}
    before, after = (dict(settings_diff.list_leaves(list_recorded(manifest))) for manifest in (then, now))
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key):
            differences[key] = f"{before.get(key)} -> {after.get(key)}"
    return differences


def list_recorded(manifest: dict[str, Any]) -> dict[str, Any]:
    """The entries of a manifest other than settings and files."""
    return {"rows_sha256": manifest.get("rows_sha256"), "rendering": manifest.get("rendering"), **manifest.get("surroundings", {})}


def differs_by_base_path(before: Path, after: Path) -> bool:
    """Whether the configurations of two adapters differ only in the path of the base model."""
    texts = [json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")) for folder in (before, after)]
    return all(text.pop("base_model_name_or_path", None) for text in texts) and texts[0] == texts[1]


def digest_artifact_file(manifest: dict[str, Any], name: str) -> str | None:
    """sha256 of a file of an artifact."""
    return manifest["files"].get(name, {}).get("sha256")
