"""The policy, which is the model in training: its adapter, its dropout, and the forward that scores tokens."""

import logging
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

from lexalign.config import hardware
from lexalign.config.schema import Experiment
from lexalign.fast_path import exactness, fused_layers, fused_lora
from lexalign.fast_path.forward import ROUND, install_forward
from lexalign.models.adapters import COPY, add_frozen_copy, make_lora_config
from lexalign.models.loading import LoadedModel

log = logging.getLogger(__name__)


def get_base_model(model: Any) -> Any:
    """The causal language model without its adapter."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def attach_adapter(experiment: Experiment, loaded: LoadedModel, *, needs_start: bool) -> Any:
    """The model to train: with a new adapter, with the adapter that it already has, or without one.

    `needs_start`: an existing adapter gets a frozen copy, because the reference is the model with that copy.
    """
    assert experiment.adapter is not None
    if experiment.adapter.kind == "full":
        return loaded.model
    if isinstance(loaded.model, PeftModel):
        if needs_start:
            add_frozen_copy(loaded.model)
        return loaded.model
    # ZeRO-3 gathers the small weights in one buffer of one type.
    is_zero3 = experiment.hardware.strategy == "deepspeed" and experiment.hardware.zero == 3 and experiment.adapter.bits is None
    return get_peft_model(loaded.model, make_lora_config(experiment.adapter, loaded.model), autocast_adapter_dtype=not is_zero3)


def restore_adapter_type(model: Any) -> None:
    """Restore the float32 adapter of a quantized base. TRL rounds it to bfloat16: it would then differ from its frozen copy, the reference,
    and small steps would be lost."""
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        if weight.requires_grad:
            weight.data = weights.get(name.replace(".default.", f".{COPY}."), weight).data.to(torch.float32, copy=True)


def switch_off_dropout(model: Any) -> None:
    """Switch off the model's own dropout, because policy and reference would differ with it. The adapter's dropout does not change."""
    adapter_ids = {id(module) for layer in model.modules() if isinstance(layer, LoraLayer) for module in layer.lora_dropout.values()}
    dropouts = [
        module for module in model.modules() if isinstance(module, torch.nn.Dropout) and module.p > 0 and id(module) not in adapter_ids
    ]
    for module in dropouts:
        module.p = 0.0
    if dropouts:
        log.info("The model's own dropout is off in %d modules: the loss compares log-probabilities", len(dropouts))


def install_fast_path(models: list[Any], trainer: Any) -> str:
    """Install the forward that scores tokens in the policy and in a separate reference model. Returns its layout: packed or padded.

    The log says what is used and what is not, with the reason.
    """
    experiment: Experiment = trainer.experiment
    assert experiment.train is not None
    continuations = 2 if trainer.objective.rows == "pair" else 1  # sequences of a batch that continue one prompt
    strategy, is_enabled = experiment.hardware.strategy, experiment.train.fast_path
    is_sharded = hardware.is_sharded(experiment.hardware)
    if is_sharded:  # a layer has its whole weights only during its own forward
        reason: str | None = f"hardware={strategy}"
    else:
        reason = exactness.find_padding_reason(get_base_model(models[0])) if is_enabled else "train.fast_path=false"
    fused_count = lora_count = 0
    for model in models:
        install_forward(get_base_model(model), packed=reason is None, alike=continuations)
        if is_enabled and not is_sharded:
            fused_count = fused_layers.fuse_layers(model)
    if is_enabled and not is_sharded:
        lora_count = fused_lora.fuse_lora(models[0])
    packing_note = "each token computed once, prompts shared" if continuations > 1 else "no padding"
    description = f"padded batches, because {reason}" if reason else packing_note
    if trainer.args.bf16 and trainer.args.device.type == "cpu":
        description += f", idle ones up to a multiple of {ROUND} (bfloat16 on a CPU)"
    log.info("Fast path: %s; %d LoRA layers fused, %d other modules", description, lora_count, fused_count)
    return "padded" if reason else "packed"
