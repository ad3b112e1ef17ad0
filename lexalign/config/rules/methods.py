"""Check that stage, method and adapter fit together, and check the settings of the method."""

import dataclasses
from collections.abc import Iterator

from lexalign.config import hardware
from lexalign.config.parsing import suggest_nearest
from lexalign.config.schema import Columns, DpoMethod, Experiment, GdpoMethod, KtoMethod, RewardMethod, SftMethod
from lexalign.evaluation.metrics import DIRECTIONS

UNTRAINING = ("download", "evaluate", "export", "chat")
"""Stages that train nothing."""
HEADS = ("lm_head", "embed_out")
"""Names of the output head in different model families."""
LABEL_SMOOTHING_READERS = ("robust", "exo_pair", "aot", "aot_unpaired")


def check_stage_and_method(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    stage, method = experiment.stage.name, experiment.method
    if stage in UNTRAINING:
        if method is not None:
            yield f"method={method.name}: stage={stage} trains nothing; leave method out, or type stage={method.stage}"
        return
    if method is None:
        yield f"method=null: stage={stage} needs a method; type method={'lora' if stage == 'sft' else 'dpo'}"
    elif method.stage != stage:
        yield f"method={method.name} belongs to stage={method.stage}, not stage={stage}; type stage={method.stage} method={method.name}"
    if experiment.train is None:
        yield f"train=null: stage={stage} trains; leave train out"


def check_adapter(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    adapter, method = experiment.adapter, experiment.method
    if adapter is None:
        if experiment.stage.name not in UNTRAINING:
            yield f"adapter=null: stage={experiment.stage.name} needs adapter=lora, qlora or full"
        return
    if method is None:
        yield f"adapter={adapter.kind}: nothing is trained here; leave adapter out"
        return
    needed_kind = method.needs.adapter
    if needed_kind and adapter.kind != needed_kind:
        yield f"adapter={adapter.kind}: method={method.name} trains adapter={needed_kind}; type method={adapter.kind} or leave adapter out"
    if adapter.kind == "full":
        for key in ("rank", "alpha", "dropout", "target_modules", "bits"):
            if getattr(adapter, key) is not None:
                yield f"adapter.{key}: full training has no adapter to read it; type adapter=lora or leave it out"
        return
    for key in ("rank", "alpha", "dropout", "target_modules"):
        if getattr(adapter, key) is None:
            yield f"adapter.{key}=null: adapter={adapter.kind} needs it; leave it out to have the value of conf/adapter/{adapter.kind}.yaml"
    if adapter.target_modules == []:
        yield "adapter.target_modules=[]: nothing would be trained; name layers, or type adapter.target_modules=auto"
    heads = [key for key in adapter.target_modules or () if key.rpartition(".")[2] in HEADS] if adapter.target_modules != "auto" else []
    if heads and isinstance(method, RewardMethod):
        yield f"adapter.target_modules: method={method.name} reads the output head past an adapter; leave {heads[0]} out"
    yield from check_quantization(experiment)


def check_quantization(experiment: Experiment) -> Iterator[str]:
    adapter = experiment.adapter
    assert adapter is not None
    if adapter.kind == "lora" and adapter.bits is not None:
        yield f"adapter.bits={adapter.bits}: lora keeps the base as it is; type adapter=qlora (method=qlora for stage=sft) to quantize it"
    if adapter.kind != "qlora":
        return
    device = hardware.resolve_device(experiment.hardware.device)
    if adapter.bits not in (4, 8):
        yield f"adapter.bits={'null' if adapter.bits is None else adapter.bits}: qlora knows adapter.bits=4 (nf4) and adapter.bits=8 (int8)"
    if experiment.model.dtype == "float16" and device == "cpu":
        yield "model.dtype=float16: qlora on the CPU computes in float32 or bfloat16; type model.dtype=auto"
    if device == "mps":
        yield "adapter=qlora: bitsandbytes does not run on mps; type adapter=lora (method=lora for stage=sft)"


def check_declaration(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Refuse typed values of keys that describe the code of a stage or method, and check these values."""
    for key in sorted(typed):
        if key in ("stage.name", "method.name", "method.stage") or key.startswith("method.needs"):
            group = key.split(".")[0]
            yield f"{key}: tells what the code behind {group} does, which typing cannot change; leave it out, or choose another {group}"
    method = experiment.method
    if method is None:
        return
    columns = [field.name for field in dataclasses.fields(Columns)]
    for name in method.needs.columns:
        if name not in columns:
            yield f"method.needs.columns: {name} is no column; there are {', '.join(columns)}{suggest_nearest(name, columns)}"
    for name in method.score:
        if name not in DIRECTIONS:
            yield f"method.score: {name} is no metric; there are {', '.join(DIRECTIONS)}{suggest_nearest(name, DIRECTIONS)}"
    if not method.score:
        yield f"method.score=[]: without a score no sweep can compare the runs; name one or more of {', '.join(DIRECTIONS)}"


def check_method_settings(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    method = experiment.method
    if isinstance(method, DpoMethod):
        if method.loss_type == "exo_pair" and method.label_smoothing == 0:
            yield "method.label_smoothing=0.0: loss_type=exo_pair needs some; its paper uses method.label_smoothing=0.001"
        if method.label_smoothing > 0 and method.loss_type not in LABEL_SMOOTHING_READERS:
            readers = ", ".join(LABEL_SMOOTHING_READERS)
            yield (
                f"method.label_smoothing={method.label_smoothing}: is read by {readers}, not by loss_type={method.loss_type}; "
                "type method.label_smoothing=0 or one of these as method.loss_type"
            )
    if isinstance(method, GdpoMethod):
        if method.calibration_weight == method.belief_weight == method.preference_weight == 0:
            yield "method: calibration_weight, belief_weight and preference_weight are all 0, so there is nothing to learn; raise one"
        if method.preference_weight == 0 and "method.beta" in typed:
            yield "method.beta: belongs to the preference term, which method.preference_weight=0 leaves out; leave one of them out"
    if isinstance(method, KtoMethod) and experiment.train is not None:
        yield from check_fixed_batches(experiment)
    if isinstance(method, SftMethod):
        columns = experiment.data.columns
        if method.loss_on == "assistant" and columns.messages is None:
            yield "method.loss_on=assistant: the data are no conversations; name data.columns.messages, or type method.loss_on=auto"
        if method.loss_on == "completion" and columns.completion is None:
            advice = "auto" if columns.messages is None else "last_turn"
            yield f"method.loss_on=completion: the data have no completions; name data.columns.completion, or type method.loss_on={advice}"


def check_fixed_batches(experiment: Experiment) -> Iterator[str]:
    """Check the batches of KTO. Its KL estimate uses answers of other rows in the same step, so steps must be fixed before training."""
    train = experiment.train
    assert train is not None
    if train.max_tokens is None and train.batch_size * train.gradient_accumulation_steps == 1:
        yield (
            "train.batch_size=1: method=kto estimates a KL divergence from each prompt and another row's completion, and a row alone has "
            "no other; type train.batch_size=2 or more, or train.gradient_accumulation_steps=2 or more"
        )
    for name in ("max_tokens", "group_by_length"):
        if getattr(train, name):
            yield (
                f"train.{name}: method=kto pairs the rows of a step before training, in batches of train.batch_size that stay as they "
                "are; leave it out"
            )


RULES = (check_stage_and_method, check_adapter, check_declaration, check_method_settings)
