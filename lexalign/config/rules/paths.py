"""Check the paths of the model and the data, and the folder of the run."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from lexalign.artifacts import checkpoints, files, fingerprint, settings_diff
from lexalign.config import hardware
from lexalign.config.paths import HUB_ID, Location, find_data, find_model, find_write_problem
from lexalign.config.schema import Experiment


def check_model(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    model = experiment.model
    if model.path is not None and model.parent is not None:
        yield (
            f"model.path={model.path}: the model already comes from model.parent={model.parent}; set one of them to null: "
            "model.parent=null or model.path=null"
        )
    if model.path is None and model.parent is None and experiment.stage.name != "download":
        yield f"model: stage={experiment.stage.name} needs one; type model=tiny, or model.path=<hub id, folder, .gguf file or run>"
    if model.parent_overrides and model.parent is None:
        yield "model.parent_overrides: there is no model.parent to apply them to; leave it out"
    if model.parent is not None and model.revision is not None:
        yield "model.revision: the model comes from model.parent, which has no revisions; leave it out"
    if model.path is not None:
        yield from check_model_path(model.path, model.revision)
        yield from check_gguf(experiment, model.path)
    if model.tokenizer is None and model.tokenizer_revision is not None:
        yield "model.tokenizer_revision: there is no model.tokenizer it could belong to; leave it out"
    if model.tokenizer is not None and find_model(model.tokenizer).kind == "missing":
        yield f"model.tokenizer={model.tokenizer}: {find_model(model.tokenizer).problem}"
    if model.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", model.revision or ""):
        yield "model.trust_remote_code=true: runs the repository's code; pin it with model.revision=<40-hex commit>"
    if model.attention == "flash_attention_2" and hardware.resolve_device(experiment.hardware.device) != "cuda":
        yield "model.attention=flash_attention_2: runs on CUDA only; type model.attention=auto"


def check_model_path(path: str, revision: str | None) -> Iterator[str]:
    place = find_model(path)
    if place.kind == "missing":
        yield f"model.path={path}: {place.problem}; name a hub id, a folder, a .gguf file or a run"
    if place.kind == "file":
        yield f"model.path={path}: a model is a hub id, a folder, a run or a .gguf file"
    if place.kind == "folder" and place.path is not None:
        has_config = any((place.path / name).is_file() for name in ("config.json", files.ADAPTER_CONFIG))
        if not has_config:
            yield f"model.path={path}: the folder holds no config.json, so there is no model in it; name the folder that does"
        elif not any(place.path.glob("*.safetensors")) and any(place.path.glob("*.bin")):
            yield (
                f"model.path={path}: its weights are pickled (.bin), and loading a pickle can run code; "
                "save it again with save_pretrained, which writes .safetensors"
            )
    if place.kind != "hub" and revision is not None:
        yield f"model.revision={revision}: only hub models have revisions; model.path={path} is on this disk; leave it out"


def check_gguf(experiment: Experiment, path: str) -> Iterator[str]:
    """Check the settings of a .gguf file. The gguf package unpacks it into plain weights."""
    if find_model(path).kind != "gguf":
        return
    if importlib.util.find_spec("gguf") is None:
        yield f"model.path={path}: reading .gguf files takes the gguf package: pip install -e '.[gguf]'"
    if experiment.adapter is not None and experiment.adapter.bits is not None:
        yield (
            f"adapter.bits={experiment.adapter.bits}: a .gguf base is unpacked to train, not quantized again; "
            "type adapter=lora (method=lora for stage=sft)"
        )


def check_data(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    data, stage = experiment.data, experiment.stage.name
    if data.path is None:
        if stage not in ("download", "export", "chat"):
            yield f"data.path=null: stage={stage} needs data; type data=pairs data.path=<file, folder or hub id>, or one of conf/data"
        return
    place = Location(kind="hub", name=data.path) if data.format == "hub" else find_data(data.path)
    if place.kind == "missing":
        yield f"data.path={data.path}: {place.problem}; name a file, a folder or a hub id"
    elif place.kind == "gguf":
        yield f"data.path={data.path}: that is a model; type model.path={data.path}"
    elif place.kind == "hub":
        if not HUB_ID.fullmatch(data.path):
            yield f"data.path={data.path}: data.format=hub needs a hub id (owner/name); type data.format=auto"
        elif data.format not in ("auto", "hub"):
            yield f"data.format={data.format}: there is no file or folder {data.path}; type data.format=hub if it is on the hub"
    else:
        for name in ("revision", "subset"):
            if getattr(data, name) is not None:
                yield (
                    f"data.{name}={getattr(data, name)}: only hub data sets have one; data.path={data.path} is on this disk; leave it out"
                )


def check_held_out(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    data = experiment.data
    if data.eval_split is not None and data.eval_fraction is not None:
        yield (
            f"data.eval_fraction={data.eval_fraction}: held-out rows already come from data.eval_split={data.eval_split}; "
            "type data.eval_split=null to use the fraction"
        )
    if data.eval_split is not None and data.eval_split == data.split:
        yield f"data.eval_split={data.eval_split}: the held-out rows would be the training rows; name another split"


def check_folders(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    writes_nothing = experiment.dry_run or experiment.cache.action != "keep" or experiment.compare or experiment.report
    for name in ("output_dir", "store"):
        value = getattr(experiment, name)
        if value.startswith("~"):
            yield f"{name}={value}: ~ is read on the command line only; write the whole path in a file"
        elif not writes_nothing and (problem := find_write_problem(Path(value))):
            yield f"{name}: cannot be written: {problem}; name another folder with {name}=<folder>"


def check_resuming(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    if experiment.resume not in ("auto", "never"):
        path = Path(experiment.resume).expanduser()
        if not path.exists():
            yield f"resume={experiment.resume}: there is no such run or checkpoint; type resume=auto, resume=never or an existing path"
        elif not any(path.glob("checkpoints/checkpoint-*")) and not (path / "trainer_state.json").is_file():
            yield f"resume={experiment.resume}: the folder holds no checkpoint; name a run's folder, or type resume=auto"
    if experiment.resume == "never" and checkpoints.holds_run(Path(experiment.output_dir)):
        yield f"resume=never: {experiment.output_dir} already holds a run; name another output_dir, or type resume=auto"
    mode_text = "dry_run=true" if experiment.dry_run else "preflight=only" if experiment.preflight.mode == "only" else None
    if mode_text and checkpoints.holds_run(Path(experiment.output_dir)):
        yield f"{mode_text}: {experiment.output_dir} already holds a run, whose result it would overwrite; leave output_dir out"
    if experiment.resume_allow and experiment.resume == "never":
        yield "resume_allow: is not read with resume=never; leave one of them out"
    yield from settings_diff.find_unknown_keys(experiment.resume_allow, fingerprint.list_deciding_settings(experiment))


RULES = (check_model, check_data, check_held_out, check_folders, check_resuming)
