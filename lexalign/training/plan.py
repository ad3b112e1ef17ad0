"""`dry_run=true`: shows what a run would load, train and need. Nothing is trained."""

import math
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from lexalign.artifacts.result import Result
from lexalign.config import hardware
from lexalign.config.schema import Experiment, RewardMethod
from lexalign.data import lengths
from lexalign.data.rows import Splits
from lexalign.errors import HubError, first_line
from lexalign.evaluation import summary
from lexalign.models import adapters, loading
from lexalign.models.precision import resolve_precision, resolve_weight_dtype
from lexalign.models.renderers import make_renderer
from lexalign.training import memory


def show_plan(experiment: Experiment, splits: Splits) -> Result:
    """Print the plan. The details of the result hold the same facts."""
    train, adapter = experiment.train, experiment.adapter
    assert train is not None and adapter is not None and experiment.method is not None and experiment.model.path is not None
    source = loading.find_source(experiment.model.path, experiment.model.revision)
    encoder = make_renderer(experiment, loading.load_tokenizer(experiment, source))
    tokens = lengths.fit_lengths(
        splits, lengths.measure_one_by_one(encoder), max_length=train.max_length, drawn=lengths.count_drawn_tokens(experiment)
    )
    sizes = count_parameters(experiment, source)
    rows = math.ceil(tokens.total / train.max_length) if train.packing else len(splits.train)
    per_epoch = count_epoch_steps(experiment, rows)
    steps = train.max_steps or math.ceil(per_epoch * train.epochs)
    sequences = train.batch_size * (2 if "chosen" in splits.train[0] else 1)
    batch = train.max_tokens or sequences * (train.max_length if train.packing else tokens.longest)
    checkpointing = memory.needs_gradient_checkpointing(experiment, sizes, batch, memory.get_free_memory(experiment))
    switch = "on" if checkpointing else "off"
    needed_bytes = memory.estimate_memory(experiment, sizes, batch, checkpointing=checkpointing)
    device = hardware.resolve_device(experiment.hardware.device)
    facts: dict[str, Any] = {
        "stage": f"{experiment.stage.name}, method {experiment.method.name}, trainer {experiment.method.target}",
        "model": f"{experiment.model.path}" + (f" ({source.place.name} with the adapter {source.adapter})" if source.adapter else ""),
        "weights": f"{sizes.total:,} parameters as {resolve_weight_dtype(experiment)}".replace("torch.", "")
        + (f", quantized to {adapter.bits} bits" if adapter.bits else ""),
        "trained": f"{sizes.trained:,} parameters ({sizes.trained / sizes.total:.2%}), adapter {adapter.kind}",
        "data": f"{experiment.data.path}: {len(splits.train):,} rows to train on, {len(splits.held_out):,} held out",
        "tokens": f"{tokens.total:,} in an epoch, longest sequence {tokens.longest:,}",
        "steps": f"{steps:,} optimizer steps ({per_epoch:,} an epoch)",
        "device": f"{device}, {resolve_precision(experiment.hardware.precision, device)}",
        "memory": f"about {needed_bytes / memory.GB:.2f} GB at the longest batch (estimate), gradient checkpointing {switch}",
    }
    row_counts = {name: count for name, count in splits.counts.items() if count}
    facts["rows"] = ", ".join(f"{name} {count:,}" for name, count in row_counts.items())
    summary.show_plan_table(facts, "nothing is trained")
    numbers = {
        "parameters": sizes.total,
        "trainable_parameters": sizes.trained,
        "steps": steps,
        "tokens": tokens.total,
        "memory_bytes": int(needed_bytes),
    }
    return Result(
        status="planned",
        stage=experiment.stage.name,
        method=experiment.method.name,
        counts={**splits.counts, **numbers},
        details={"plan": facts},
    )


def count_epoch_steps(experiment: Experiment, rows: int) -> int:
    """The number of optimizer steps of an epoch. Prompts for generated answers only fill whole steps."""
    train, method = experiment.train, experiment.method
    assert train is not None
    if isinstance(method, RewardMethod):
        return rows * method.generations // (train.batch_size * train.gradient_accumulation_steps) * method.iterations
    return math.ceil(math.ceil(rows / train.batch_size) / train.gradient_accumulation_steps)


def count_parameters(experiment: Experiment, source: loading.ModelSource) -> memory.ModelSizes:
    """Count the parameters of a model that is made from its configuration and takes no memory."""
    assert experiment.adapter is not None
    try:
        if source.place.kind == "gguf":
            assert source.place.path is not None
            config = AutoConfig.from_pretrained(source.place.path.parent, gguf_file=source.place.path.name)
        else:
            config = AutoConfig.from_pretrained(
                source.place.path or source.place.name,
                revision=source.revision or "main",
                trust_remote_code=experiment.model.trust_remote_code,
            )
    except OSError as error:
        raise HubError(f"model.path={experiment.model.path}: {first_line(error)}; fetch it with stage=download first") from error
    with torch.device("meta"):  # no memory, and tied weights stay tied
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=experiment.model.trust_remote_code)
        total = model.num_parameters()
        trained = total
        if experiment.adapter.kind != "full":
            adapter_model = get_peft_model(model, adapters.make_lora_config(experiment.adapter, model))
            trained = sum(parameter.numel() for parameter in adapter_model.parameters() if parameter.requires_grad)
    text_config = config.get_text_config()
    return memory.ModelSizes(
        total=total,
        trained=trained,
        layers=text_config.num_hidden_layers,
        hidden=text_config.hidden_size,
        vocabulary=text_config.vocab_size,
    )
