"""The checks across groups: every contradiction in an experiment, all at once, each with what to type instead.

A rule is a generator of problems. `typed` holds the dotted keys that the user typed, so that an option which this experiment would
not read is refused rather than ignored.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lexalign import hardware
from lexalign.data import peek
from lexalign.data.columns import nearest_column, wanted_columns
from lexalign.locate import Place, find_data, find_model
from lexalign.schema import DpoMethod, Experiment, GdpoMethod, SftMethod

STAGES = {"sft": "sft", "align": "align", "download": "download"}
SECRET = re.compile(r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|[0-9a-f]{40}(?![0-9a-f]))\b")
COMMIT_KEYS = ("revision", "tokenizer_revision")
LABEL_SMOOTHING_READERS = ("sigmoid", "robust", "exo_pair")


def problems(experiment: Experiment, typed: frozenset[str]) -> list[str]:
    """Everything wrong with an experiment whose types are right."""
    rules = (stage_and_method, adapter, model, data, beliefs, training, method_settings, device, evaluation, download, resuming, unread)
    return [problem for rule in rules for problem in rule(experiment, typed)]


def secrets(node: Any, where: str = "") -> list[str]:
    """Values that look like a token: they would end up in files and folder names."""
    if isinstance(node, Mapping):
        return [problem for key, value in node.items() for problem in secrets(value, f"{where}.{key}" if where else str(key))]
    if isinstance(node, (list, tuple)):
        return [problem for i, item in enumerate(node) for problem in secrets(item, f"{where}[{i}]")]
    if isinstance(node, str) and where.rpartition(".")[2] not in COMMIT_KEYS and SECRET.search(node):
        return [f"{where}: looks like a token or key; settings are written to disk, so give it as HF_TOKEN or WANDB_API_KEY instead"]
    return []


def stage_and_method(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    stage, method = experiment.stage.name, experiment.method
    if stage == "download":
        if method is not None:
            yield f"method={method.name}: stage=download trains nothing; leave method out, or type stage={method.stage}"
        return
    if method is None:
        yield f"method=null: stage={stage} needs a method; type method={'lora' if stage == 'sft' else 'dpo'}"
    elif method.stage != stage:
        yield f"method={method.name} belongs to stage={method.stage}, not stage={stage}; type stage={method.stage} method={method.name}"


def adapter(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    chosen, method = experiment.adapter, experiment.method
    if chosen is None:
        if experiment.stage.name != "download":
            yield f"adapter=null: stage={experiment.stage.name} needs adapter=lora, qlora or full"
        return
    if method is None:
        yield f"adapter={chosen.kind}: nothing is trained here; leave adapter out"
        return
    pinned = method.needs.adapter
    if pinned and chosen.kind != pinned:
        yield f"adapter={chosen.kind}: method={method.name} trains adapter={pinned}; type method={chosen.kind} or leave adapter out"
    if chosen.kind == "full":
        for name in ("rank", "alpha", "dropout", "target_modules", "bits"):
            if getattr(chosen, name) is not None:
                yield f"adapter.{name}: full training has no adapter to read it; type adapter=lora or leave it out"
        return
    for name in ("rank", "alpha", "dropout", "target_modules"):
        if getattr(chosen, name) is None:
            yield f"adapter.{name}=null: adapter={chosen.kind} needs it"
    if chosen.target_modules == []:
        yield "adapter.target_modules=[]: nothing would be trained; name layers, or type adapter.target_modules=auto"
    if chosen.kind == "lora" and chosen.bits is not None:
        yield f"adapter.bits={chosen.bits}: lora keeps the base as it is; type adapter=qlora (method=qlora for stage=sft) to quantize it"
    if chosen.kind == "qlora" and chosen.bits not in (4, 8):
        yield f"adapter.bits={'null' if chosen.bits is None else chosen.bits}: qlora knows 4 (nf4) and 8 (int8)"
    if chosen.kind == "qlora" and experiment.model.dtype == "float16" and hardware.resolve_device(experiment.hardware.device) == "cpu":
        yield "model.dtype=float16: qlora on the CPU computes in float32 or bfloat16"


def model(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    chosen = experiment.model
    if chosen.path is not None and chosen.parent is not None:
        yield f"model.path={chosen.path}: the model already comes from model.parent={chosen.parent}; set one of them to null"
    if chosen.path is None and chosen.parent is None and experiment.stage.name != "download":
        yield f"model: stage={experiment.stage.name} needs one; type model=tiny, or model.path=<hub id, folder, .gguf file or run>"
    if chosen.parent_overrides and chosen.parent is None:
        yield "model.parent_overrides: there is no model.parent to apply them to"
    if chosen.parent is not None and chosen.revision is not None:
        yield "model.revision: the model comes from model.parent, which has no revisions"
    place = find_model(chosen.path) if chosen.path else None
    if place and place.kind == "missing":
        yield f"model.path={chosen.path}: {place.problem}"
    if place and place.kind == "file":
        yield f"model.path={chosen.path}: a model is a hub id, a folder, a run or a .gguf file"
    if place and place.kind == "folder" and not (place.path / "config.json").is_file():
        yield f"model.path={chosen.path}: the folder holds no config.json, so there is no model in it"
    if place and place.kind != "hub" and chosen.revision is not None:
        yield f"model.revision={chosen.revision}: only hub models have revisions; model.path={chosen.path} is on this disk"
    if chosen.tokenizer is None and chosen.tokenizer_revision is not None:
        yield "model.tokenizer_revision: there is no model.tokenizer it could belong to"
    if chosen.tokenizer is not None and find_model(chosen.tokenizer).kind == "missing":
        yield f"model.tokenizer={chosen.tokenizer}: {find_model(chosen.tokenizer).problem}"
    if chosen.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", chosen.revision or ""):
        yield "model.trust_remote_code=true: runs the repository's code; pin it with model.revision=<40-hex commit>"
    if chosen.attention == "flash_attention_2" and hardware.resolve_device(experiment.hardware.device) != "cuda":
        yield "model.attention=flash_attention_2: runs on CUDA only; type model.attention=auto"


def data(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    chosen, stage = experiment.data, experiment.stage.name
    if chosen.path is None:
        if stage != "download":
            yield f"data.path=null: stage={stage} needs data; type data=pairs data.path=<file, folder or hub id>, or one of conf/data"
        return
    place = Place(kind="hub", name=chosen.path) if chosen.format == "hub" else find_data(chosen.path)
    if place.kind == "missing":
        yield f"data.path={chosen.path}: {place.problem}"
        return
    if place.kind == "gguf":
        yield f"data.path={chosen.path}: that is a model; type model.path={chosen.path}"
        return
    if chosen.eval_split is not None and chosen.eval_fraction is not None:
        yield (
            f"data.eval_fraction={chosen.eval_fraction}: held-out rows already come from data.eval_split={chosen.eval_split}; "
            "type data.eval_split=null to use the fraction"
        )
    if chosen.eval_split is not None and chosen.eval_split == chosen.split:
        yield f"data.eval_split={chosen.eval_split}: the held-out rows would be the training rows; name another split"
    if place.kind != "hub":
        for name in ("revision", "subset"):
            if getattr(chosen, name) is not None:
                yield f"data.{name}={getattr(chosen, name)}: only hub data sets have one; data.path={chosen.path} is on this disk"
    if stage == "download":
        return
    try:
        columns = wanted_columns(experiment)
    except ValueError as error:
        yield str(error)
        return
    if place.kind == "hub" or chosen.converter is not None:
        return
    for split in filter(None, (chosen.split, chosen.eval_split)):
        try:
            found = peek.first_row(chosen, place, split)
        except peek.Unreadable as error:
            yield str(error)
            continue
        for ours, theirs in columns.items():
            if theirs not in found.columns and (ours in required(experiment) or split == chosen.split):
                yield (
                    f"data.columns.{ours}={theirs}: {found.file} has no column {theirs!r}; it has {', '.join(found.columns)}"
                    f"{nearest_column(ours, theirs, found.columns)}"
                )


def required(experiment: Experiment) -> list[str]:
    """Our names of the columns without which the method cannot run."""
    return experiment.method.needs.columns if experiment.method else []


def beliefs(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    chosen = experiment.data
    if experiment.method is None or chosen.columns.belief is None:
        if chosen.columns.probabilities is not None or chosen.columns.rejected_belief is not None:
            yield "data.columns.belief=null: probabilities and rejected_belief mean nothing without it; name the column of the belief"
        if "data.beliefs" in typed:
            yield "data.beliefs: is read only where data.columns.belief names a column"
        return
    texts = chosen.beliefs
    if not texts or len(texts) < 2:
        yield "data.beliefs: list the texts of the beliefs, two or more, in the order of the shares: 'data.beliefs=[for,against]'"
        return
    repeated = sorted({text for text in texts if texts.count(text) > 1})
    if repeated:
        yield f"data.beliefs: {', '.join(repeated)} stands there twice"
    if any(not text.strip() for text in texts):
        yield "data.beliefs: holds an empty text"
    try:
        rendered = [chosen.belief_format.format(index=i, text=text) for i, text in enumerate(texts)]
    except (KeyError, IndexError, ValueError) as error:
        yield f"data.belief_format={chosen.belief_format}: only {{index}} and {{text}} can be filled in ({error!r})"
        return
    if len(set(rendered)) < len(set(texts)):
        yield f"data.belief_format={chosen.belief_format}: renders two beliefs alike; use {{index}} or {{text}}"


def training(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    chosen = experiment.train
    if chosen is None or experiment.stage.name == "download":
        return
    if chosen.packing and experiment.stage.name == "align":
        yield "train.packing=true: pairs cannot be packed; packing is for stage=sft"
    if chosen.eval_steps is not None and experiment.data.eval_split is None and experiment.data.eval_fraction is None:
        yield f"train.eval_steps={chosen.eval_steps}: there is nothing held out; name data.eval_split or type data.eval_fraction=0.1"
    if chosen.warmup_steps >= 1 and chosen.warmup_steps != int(chosen.warmup_steps):
        yield f"train.warmup_steps={chosen.warmup_steps}: a whole number of steps, or a share below 1"
    if chosen.max_steps is not None and chosen.warmup_steps >= chosen.max_steps and chosen.warmup_steps >= 1:
        yield f"train.warmup_steps={chosen.warmup_steps:g}: the run ends at train.max_steps={chosen.max_steps}, still warming up"
    if chosen.scheduler == "constant" and "train.warmup_steps" in typed and chosen.warmup_steps > 0:
        yield "train.warmup_steps: scheduler=constant has no warm-up; type train.scheduler=constant_with_warmup"
    if chosen.optimizer == "adamw_8bit" and hardware.resolve_device(experiment.hardware.device) == "mps":
        yield "train.optimizer=adamw_8bit: bitsandbytes does not run on mps; type train.optimizer=adamw_torch"


def method_settings(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    method = experiment.method
    if isinstance(method, DpoMethod):
        if method.loss_type == "exo_pair" and method.label_smoothing == 0:
            yield "method.label_smoothing=0.0: loss_type=exo_pair needs some; its paper uses method.label_smoothing=0.001"
        if method.label_smoothing > 0 and method.loss_type not in LABEL_SMOOTHING_READERS:
            readers = ", ".join(LABEL_SMOOTHING_READERS)
            yield f"method.label_smoothing={method.label_smoothing}: is read by {readers}, not by loss_type={method.loss_type}"
    if isinstance(method, GdpoMethod):
        if method.calibration_weight == method.belief_weight == method.preference_weight == 0:
            yield "method: calibration_weight, belief_weight and preference_weight are all 0, so there is nothing to learn"
        if method.preference_weight == 0 and "method.beta" in typed:
            yield "method.beta: belongs to the preference term, which method.preference_weight=0 leaves out"
    if isinstance(method, SftMethod):
        columns = experiment.data.columns
        if method.loss_on == "assistant" and columns.messages is None:
            yield "method.loss_on=assistant: the data are no conversations; name data.columns.messages, or type method.loss_on=auto"
        if method.loss_on == "completion" and columns.completion is None:
            yield "method.loss_on=completion: the data have no completions; name data.columns.completion, or type method.loss_on=auto"


def device(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    chosen = experiment.hardware
    name = hardware.resolve_device(chosen.device)
    if name == "cuda" and not hardware.cuda_devices():
        yield "hardware=cuda: the driver shows no CUDA device here; type hardware=cpu, or hardware=auto to take what there is"
    elif name == "cuda" and hardware.torch_is_cpu_build():
        yield "hardware=cuda: the installed torch is a CPU build; install a CUDA build, or type hardware=cpu"
    if name == "mps" and not hardware.has_mps():
        yield "hardware=mps: this is no Apple-silicon Mac; type hardware=auto"
    if chosen.precision == "fp16" and name == "cpu":
        yield "hardware.precision=fp16: the CPU trains in fp32 or bf16; type hardware.precision=bf16"
    if name == "mps" and experiment.adapter and experiment.adapter.kind == "qlora":
        yield "adapter=qlora: bitsandbytes does not run on mps; type adapter=lora (method=lora for stage=sft)"
    if chosen.threads is not None and chosen.threads > hardware.cores():
        yield f"hardware.threads={chosen.threads}: this process may use {hardware.cores()} cores"


def evaluation(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    if experiment.stage.name == "download" or experiment.data.path is None:
        return
    nothing_held_out = experiment.data.eval_split is None and experiment.data.eval_fraction is None
    if experiment.evaluate.enabled and nothing_held_out:
        yield (
            "evaluate.enabled=true: there is nothing held out to measure on; name data.eval_split, type data.eval_fraction=0.1, "
            "or type evaluate.enabled=false"
        )
    if not experiment.evaluate.enabled:
        for key in sorted(key for key in typed if key.startswith("evaluate.") and key != "evaluate.enabled"):
            yield f"{key}: is not read with evaluate.enabled=false"
    if experiment.data.columns.belief is None and "evaluate.belief_samples" in typed:
        yield "evaluate.belief_samples: the data have no beliefs to sample"


def download(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    if experiment.stage.name != "download":
        return
    wants = experiment.download
    has_model = experiment.model.path is not None
    has_data = experiment.data.path is not None
    if not has_model and not has_data:
        yield "stage=download: nothing is named; type model=<a hub model> or model.path=<hub id>, and/or data=<a hub data set>"
    if wants.only == "models" and not has_model:
        yield "download.only=models: no model is named; type model=<a hub model> or model.path=<hub id>"
    if wants.only == "datasets" and not has_data:
        yield "download.only=datasets: no data set is named; type data=<a hub data set>"
    if has_model and wants.only != "datasets" and find_model(experiment.model.path).kind not in ("hub", "missing"):
        yield f"model.path={experiment.model.path}: is on this disk already; name a hub id, or type model=none"
    if has_data and wants.only != "models" and experiment.data.format != "hub" and find_data(experiment.data.path).kind not in ("hub", "missing"):
        yield f"data.path={experiment.data.path}: is on this disk already; name a hub data set, or type data=none"
    if experiment.model.parent is not None:
        yield "model.parent: stage=download fetches from the hub; name model.path=<hub id>"
    if set(wants.include) & set(wants.exclude):
        yield f"download.include and download.exclude: both hold {', '.join(sorted(set(wants.include) & set(wants.exclude)))}"


def resuming(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    if experiment.resume not in ("auto", "never"):
        path = Path(experiment.resume).expanduser()
        if not path.exists():
            yield f"resume={experiment.resume}: there is no such run or checkpoint; type resume=auto, resume=never or an existing path"
        elif not any(path.glob("checkpoints/checkpoint-*")) and not (path / "trainer_state.json").is_file():
            yield f"resume={experiment.resume}: the folder holds no checkpoint"
    out_dir = Path(experiment.output_dir)
    if out_dir.exists() and not out_dir.is_dir():
        yield f"output_dir={experiment.output_dir}: is a file; name a folder"
    if experiment.resume == "never" and any(out_dir.glob("checkpoints/checkpoint-*")):
        yield f"resume=never: {out_dir} already holds checkpoints; name another output_dir, or type resume=auto"


def unread(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    stage = experiment.stage.name
    ignored = ("train.", "evaluate.", "adapter.", "method.") if stage == "download" else ("download.",)
    for key in sorted(typed):
        if key.startswith(ignored):
            yield f"{key}: is not read by stage={stage}"
