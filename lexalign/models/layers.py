"""Choose the layers that get an adapter: those that `adapter.target_modules` names, or with auto the layers that text passes through."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from lexalign.config.parsing import suggest_nearest
from lexalign.errors import ConfigError
from lexalign.fast_path.logit_map import TRIED, compute_own_logits, is_whole
from lexalign.fast_path.router_loss import EXPERTS, read_count
from lexalign.fast_path.trial import FAILURES

log = logging.getLogger(__name__)
LINEAR = (torch.nn.Linear, Conv1D)
ADAPTABLE = (*LINEAR, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
ROUTERS = {"router", "gate", "gating", "wg", "shared_expert_gate"}
"""Names of the layer that chooses a token's experts, in different model families."""
MAMBA = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
FUSED_BY_MAMBA = {"out_proj", "conv1d"}
"""Layers whose weights these families' kernels read directly, without an adapter; PEFT refuses them."""
RENAMED = ("gate_proj", "up_proj", "down_proj", "gate", "w1", "w2", "w3")
"""Names that PEFT treats as experts everywhere in models of families whose experts once were single layers."""


@dataclass(kw_only=True)
class TargetLayers:
    """Full names of the modules and weights that get an adapter."""

    modules: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    """Weights that are adapted inside their module: experts in one tensor, routers, and layers that PEFT would treat as experts."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Linear layers that auto leaves out, by reason."""


@dataclass(frozen=True, kw_only=True)
class AdaptableLayers:
    """The parts of a model that PEFT can adapt: modules by full name, experts and routers by the full name of their weight."""

    modules: dict[str, torch.nn.Module]
    experts: list[str]
    routers: list[str]
    head: str | None
    other_inputs: list[str]
    """Modules of the parts that read images or sound."""


def find_layers(model: Any) -> AdaptableLayers:
    """All layers that can be adapted."""
    decoder = model.get_decoder()
    text_ids = {id(module) for module in decoder.modules()}
    head = model.get_output_embeddings()
    has_experts = read_count(model, model.config.get_text_config(), EXPERTS) is not None
    modules: dict[str, torch.nn.Module] = {}
    experts, routers, other_inputs = [], [], []
    head_name = next((name for name, module in model.named_modules() if module is head), None)
    has_other_inputs = any(getattr(model.config, f"{input_kind}_config", None) is not None for input_kind in ("vision", "audio"))
    for name, module in model.named_modules():
        if has_other_inputs and id(module) not in text_ids and module is not head:
            if isinstance(module, ADAPTABLE):
                other_inputs.append(name)
            continue
        if has_experts and is_router(name, module):
            routers += [f"{name}.weight"] if getattr(module, "weight", None) is not None and module.weight.dim() == 2 else []
        elif isinstance(module, ADAPTABLE):
            modules[name] = module
        elif has_experts and ("expert" in name or "Expert" in type(module).__name__):
            parameters = module.named_parameters(recurse=False)
            experts += [f"{name}.{part}" for part, weight in parameters if weight.dim() == 3 and weight.is_floating_point()]
    return AdaptableLayers(modules=modules, experts=experts, routers=routers, head=head_name, other_inputs=other_inputs)


def is_router(name: str, module: torch.nn.Module) -> bool:
    """Whether a module of a mixture of experts chooses experts."""
    class_name = type(module).__name__
    return (
        "Router" in class_name or "Gating" in class_name or bool(ROUTERS & set(name.split("."))) and "expert" not in name.rpartition(".")[0]
    )


def choose_layers(model: Any, targets: list[str] | str, *, dropout: float) -> TargetLayers:
    """The layers that get an adapter; raises ConfigError for a name that no layer has, or whose layer cannot have an adapter."""
    layers = find_layers(model)
    target_layers = choose_all_linear(model, layers, dropout=dropout) if isinstance(targets, str) else TargetLayers()
    for target in [] if isinstance(targets, str) else targets:
        choose_named(model, layers, target_layers, target, dropout=dropout)
    return move_renamed(model, layers, target_layers)


def choose_all_linear(model: Any, layers: AdaptableLayers, *, dropout: float) -> TargetLayers:
    """Every linear layer that text passes through, including experts, without the head and the routers."""
    target_layers = TargetLayers()
    linear_layers = {name: module for name, module in layers.modules.items() if isinstance(module, LINEAR) and name != layers.head}
    bypassed_layers = find_bypassed(model, linear_layers)
    for name, module in linear_layers.items():
        if is_fused_by_mamba(model, name) or name in bypassed_layers:
            target_layers.left_out["whose weights are read past an adapter by the model's own code"] += 1
        elif not computes_linearly(module):
            target_layers.left_out["that compute more than a linear layer does"] += 1
        else:
            target_layers.modules.append(name)
    if dropout:
        target_layers.left_out["of experts, whose adapters cannot drop out (adapter.dropout=0 takes them)"] += len(layers.experts)
    else:
        target_layers.parameters += layers.experts
    target_layers.left_out["that choose experts (routers; name them to train them)"] += len(layers.routers)
    target_layers.left_out["that read images or sound"] += sum(
        isinstance(model.get_submodule(name), LINEAR) for name in layers.other_inputs
    )
    return target_layers


def computes_linearly(module: torch.nn.Module) -> bool:
    """Whether a linear layer computes only a linear map. Quantized layers of bitsandbytes do."""
    forward = type(module).forward
    return forward in (torch.nn.Linear.forward, Conv1D.forward) or type(module).__module__.startswith("bitsandbytes")


@torch.no_grad()
def find_bypassed(model: Any, linear_layers: Mapping[str, torch.nn.Module]) -> set[str]:
    """The layers that are not called when text passes through the model, because its code reads their weights directly or never.

    A short text is sent through the model in training mode. Single experts are not judged, because the text may not choose them. The set
    is empty if the weights are not whole in this process, or if the forward fails.
    """
    if not is_whole(model):
        return set()
    called_layers: set[str] = set()
    hooks = [module.register_forward_hook(lambda *_, name=name: called_layers.add(name)) for name, module in linear_layers.items()]
    was_training, device = model.training, model.get_input_embeddings().weight.device
    model.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            compute_own_logits(model, input_ids=torch.arange(TRIED, device=device)[None] + 1)
    except FAILURES:
        return set()
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return {name for name in linear_layers if name not in called_layers and "expert" not in name}


def choose_named(model: Any, layers: AdaptableLayers, chosen: TargetLayers, target: str, *, dropout: float) -> None:
    """Add the layers that one target name means."""
    modules = [name for name in layers.modules if is_named(name, target)]
    weights = [name for name in layers.experts + layers.routers if is_named(name, target) or is_named(name.rpartition(".")[0], target)]
    if not modules and not weights:
        if any(is_named(name, target) for name in layers.other_inputs):
            raise ConfigError(
                f"adapter.target_modules: {target!r} is only in the part of the model that reads images or sound; rows are text"
            )
        names = sorted(
            {name.rpartition(".")[2] for name in (*layers.modules, *layers.experts)} | {router.split(".")[-2] for router in layers.routers}
        )
        raise ConfigError(
            f"adapter.target_modules: the model has no linear layer {target!r}; it has {', '.join(names)}{suggest_nearest(target, names)}"
        )
    linear_layers = {name: module for name in modules if isinstance(module := layers.modules[name], LINEAR) and name != layers.head}
    if any(is_fused_by_mamba(model, name) for name in modules) or find_bypassed(model, linear_layers):
        kind = model.config.get_text_config().model_type
        raise ConfigError(f"adapter.target_modules: {target!r} cannot have an adapter in {kind}, whose code reads past it; leave it out")
    if dropout and weights:
        raise ConfigError(
            f"adapter.dropout={dropout:g}: the adapter of {target!r}, a weight of experts, cannot drop out; type adapter.dropout=0"
        )
    chosen.modules += [name for name in modules if name not in chosen.modules]
    chosen.parameters += [name for name in weights if name not in chosen.parameters]


def is_named(name: str, target: str) -> bool:
    """Whether a full name is a target, or ends with it."""
    return name == target or name.endswith(f".{target}")


def is_fused_by_mamba(model: Any, name: str) -> bool:
    """Whether a layer cannot have an adapter in the model's family."""
    return model.config.get_text_config().model_type in MAMBA and name.rpartition(".")[2] in FUSED_BY_MAMBA


def move_renamed(model: Any, layers: AdaptableLayers, chosen: TargetLayers) -> TargetLayers:
    """In a model with fused experts, adapt the weight instead of the layer if PEFT would treat the layer's name as the name of experts.

    A quantized weight cannot be adapted in this way, and is left out.
    """
    if not layers.experts:
        return chosen
    renamed_layers = [name for name in chosen.modules if name.rpartition(".")[2] in RENAMED]
    chosen.modules = [name for name in chosen.modules if name not in renamed_layers]
    for name in renamed_layers:
        if model.get_submodule(name).weight.is_floating_point() and model.get_submodule(name).weight.dim() == 2:
            chosen.parameters.append(f"{name}.weight")
        else:
            chosen.left_out["quantized, whose names PEFT takes for the experts'"] += 1
    return chosen


def report_layers(chosen: TargetLayers) -> None:
    """Log the layers that auto left out, and the number of weights that are adapted inside their module."""
    for reason, count in chosen.left_out.items():
        if count:
            log.info("Adapter: %d layers left out %s", count, reason)
    if chosen.parameters:
        log.info("Adapter: on %d layers, and on %d weights of experts and the like", len(chosen.modules), len(chosen.parameters))
