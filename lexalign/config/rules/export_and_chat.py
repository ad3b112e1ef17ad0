"""Check the settings of stage=export and stage=chat, which use a finished model."""

import os
from collections.abc import Iterator
from pathlib import Path

from lexalign.config.paths import HUB_ID, find_model
from lexalign.config.schema import Experiment

CONVERT = "python llama.cpp/convert_hf_to_gguf.py <output_dir>/artifact --outfile model.gguf --outtype bf16"


def check_export(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    if experiment.stage.name != "export":
        return
    settings, data = experiment.export, experiment.data
    if settings.format == "gguf":
        yield (
            "export.format=gguf: no installable package that is kept up writes it of any model; type export.format=safetensors, then, in a "
            f"checkout of llama.cpp with its requirements, {CONVERT}"
        )
    if data.path is None:
        for key in sorted(key for key in typed if key.split(".")[0] == "data" and key != "data.path"):
            reason = "names no path" if key == "data" else "there are no data it could belong to"
            yield f"{key}: {reason}; name rows with data.path=<file, folder or hub id>, or leave it out for those of the run itself"
    if (Path(experiment.output_dir) / "artifact").exists():
        yield f"output_dir={experiment.output_dir}: already holds an artifact, which stage=export never overwrites; name another output_dir"
    if settings.push is None:
        if "export.private" in typed:
            yield "export.private: is read only with export.push=<owner/name>; leave it out"
        return
    if "/" not in settings.push or not HUB_ID.fullmatch(settings.push):
        yield f"export.push={settings.push}: is no repository of the hub; type export.push=<owner>/<name>"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield f"export.push={settings.push}: HF_HUB_OFFLINE is set, so nothing is sent; unset it, or leave export.push out"


def check_chat(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    if experiment.stage.name != "chat":
        return
    settings = experiment.chat
    if settings.against not in (None, "reference"):
        place = find_model(settings.against)
        if place.kind in ("missing", "file"):
            problem = place.problem or "a model is a hub id, a folder, a run or a .gguf file"
            yield f"chat.against={settings.against}: {problem}; name another model, or type chat.against=reference"
    if settings.temperature == 0 and "chat.seed" in typed:
        yield "chat.seed: nothing is drawn with chat.temperature=0; leave one of them out"


RULES = (check_export, check_chat)
