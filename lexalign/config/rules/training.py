"""Check the settings of the training loop, the device and the download."""

from collections.abc import Iterator

from lexalign.config import hardware
from lexalign.config.paths import find_data, find_model
from lexalign.config.schema import Experiment

HOLD_OUT = "name data.eval_split, or type data.eval_split=null data.eval_fraction=0.1"


def is_nothing_held_out(experiment: Experiment) -> bool:
    """Whether there are no held-out rows to evaluate on."""
    return experiment.data.eval_split is None and experiment.data.eval_fraction is None


def check_training(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    train = experiment.train
    if train is None or experiment.method is None:
        return
    if train.packing and experiment.stage.name == "align":
        yield "train.packing=true: pairs cannot be packed, packing is for stage=sft; type train.packing=false"
    if train.max_tokens is not None:
        if "train.batch_size" in typed:
            yield "train.max_tokens and train.batch_size: both say how large a batch is; leave one of them out"
        if train.max_tokens < train.max_length:
            yield (
                f"train.max_tokens={train.max_tokens}: is less than one row of train.max_length={train.max_length} may have; "
                f"type train.max_tokens={train.max_length} or more"
            )
    for name in ("max_tokens", "group_by_length"):
        if train.packing and getattr(train, name):
            yield f"train.{name}: packed rows are all as long as train.max_length; type train.packing=false, or leave it out"
    if train.eval_steps is not None and is_nothing_held_out(experiment):
        yield f"train.eval_steps={train.eval_steps}: there is nothing held out; {HOLD_OUT}"
    if train.warmup_steps >= 1 and train.warmup_steps != int(train.warmup_steps):
        yield f"train.warmup_steps={train.warmup_steps}: a whole number of steps, or a share below 1"
    if train.max_steps is not None and train.warmup_steps >= train.max_steps and train.warmup_steps >= 1:
        yield (
            f"train.warmup_steps={train.warmup_steps:g}: the run ends at train.max_steps={train.max_steps}, still warming up; "
            "type a share, as in train.warmup_steps=0.1"
        )
    if train.scheduler == "constant" and "train.warmup_steps" in typed and train.warmup_steps > 0:
        yield "train.warmup_steps: scheduler=constant has no warm-up; type train.scheduler=constant_with_warmup"
    if train.optimizer == "adamw_8bit" and hardware.resolve_device(experiment.hardware.device) == "mps":
        yield "train.optimizer=adamw_8bit: bitsandbytes does not run on mps; type train.optimizer=adamw_torch"


def check_device(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    setup = experiment.hardware
    name = hardware.resolve_device(setup.device)
    if name == "cuda" and not hardware.count_cuda_devices():
        yield "hardware=cuda: the driver shows no CUDA device here; type hardware=cpu, or hardware=auto to take what there is"
    elif name == "cuda" and hardware.is_torch_cpu_build():
        yield "hardware=cuda: the installed torch is a CPU build; install a CUDA build, or type hardware=cpu"
    if name == "mps" and not hardware.has_mps():
        yield "hardware=mps: this is no Apple-silicon Mac; type hardware=auto"
    if setup.precision == "fp16" and name == "cpu":
        yield "hardware.precision=fp16: the CPU trains in fp32 or bf16; type hardware.precision=bf16"
    if setup.threads is not None and setup.threads > hardware.count_cores():
        cores = hardware.count_cores()
        yield f"hardware.threads={setup.threads}: this process may use {cores} cores; type hardware.threads={cores}"


def check_preflight(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    mode = experiment.preflight.mode
    if "preflight" in typed and mode == "only" and experiment.dry_run:
        yield "preflight=only: dry_run=true loads no model to look at; leave one of them out"
    if mode == "skip":
        for key in sorted(key for key in typed if key.startswith("preflight.") and key != "preflight.mode"):
            yield f"{key}: is not read with preflight=skip; leave one of them out"


def check_download(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    if experiment.stage.name != "download":
        return
    download, model, data = experiment.download, experiment.model.path, experiment.data.path
    if model is None and data is None:
        yield "stage=download: nothing is named; type model=<a hub model> or model.path=<hub id>, and/or data=<a hub data set>"
    elif download.only == "models" and model is None:
        yield "download.only=models: no model is named; type model=<a hub model> or model.path=<hub id>"
    elif download.only == "datasets" and data is None:
        yield "download.only=datasets: no data set is named; type data=<a hub data set>"
    if model is not None and download.only != "datasets" and find_model(model).kind not in ("hub", "missing"):
        yield f"model.path={model}: is on this disk already; name a hub id, or type model=none"
    if (
        data is not None
        and download.only != "models"
        and experiment.data.format != "hub"
        and find_data(data).kind not in ("hub", "missing")
    ):
        yield f"data.path={data}: is on this disk already; name a hub data set, or type data=none"
    if model is not None and data is not None and download.only == "all" and download.output_dir is not None:
        yield (
            f"download.output_dir={download.output_dir}: is one folder, and a model and a data set are named; "
            "type download.only=models or download.only=datasets"
        )
    if experiment.model.parent is not None:
        yield "model.parent: stage=download fetches from the hub; name model.path=<hub id>"
    if common_names := sorted(set(download.include) & set(download.exclude)):
        yield f"download.include and download.exclude: both hold {', '.join(common_names)}; leave it out of one"


RULES = (check_training, check_device, check_preflight, check_download)
