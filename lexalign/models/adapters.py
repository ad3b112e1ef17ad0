"""LoRA adapters as files: their description, and how two adapters are joined into one."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from lexalign.artifacts import files
from lexalign.config.schema import Adapter
from lexalign.errors import ConfigError
from lexalign.models import layers

log = logging.getLogger(__name__)
WEIGHTS = "adapter_model.safetensors"
ENDINGS_A = (".lora_A.weight", ".lora_embedding_A")
ENDINGS_B = (".lora_B.weight", ".lora_embedding_B")
PREFIX = "base_model.model."
# Features of an adapter whose update is not scale · B A, so that it cannot be stacked with another adapter.
UNSTACKABLE = (
    "use_dora", "modules_to_save", "trainable_token_indices", "rank_pattern", "alpha_pattern", "lora_bias", "layer_replication",
)  # fmt: skip


def make_lora_config(adapter: Adapter, model: Any) -> LoraConfig:
    """PEFT's description of an adapter; raises ConfigError for a target module that does not exist, or that cannot have an adapter."""
    assert adapter.rank is not None and adapter.alpha is not None and adapter.dropout is not None and adapter.target_modules is not None
    target_layers = layers.choose_layers(model, adapter.target_modules, dropout=adapter.dropout)
    layers.report_layers(target_layers)
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # PEFT declares a whole number, but any number works
        lora_dropout=adapter.dropout,
        target_modules=target_layers.modules,
        target_parameters=target_layers.parameters or None,
        fan_in_fan_out=bool(target_layers.modules) and all(isinstance(model.get_submodule(name), Conv1D) for name in target_layers.modules),
        task_type="CAUSAL_LM",
    )


COPY = "ref"
"""Name of the frozen copy of a trained adapter: the reference."""


def add_frozen_copy(model: PeftModel) -> None:
    """Copy the current adapter of a model to a second adapter that is not trained."""
    model.add_adapter(COPY, model.peft_config["default"])
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            if ".default." in name:
                copy = weights[name.replace(".default.", f".{COPY}.")]
                copy.data = weight.data.clone()
                copy.requires_grad_(False)


@contextmanager
def use_start_model(model: Any) -> Iterator[Any]:
    """Within the block, the model as it was at the start: with the frozen copy of its adapter, or else without an adapter."""
    if COPY not in model.peft_config:
        with model.disable_adapter():
            yield model
        return
    active_adapter = model.active_adapter
    model.set_adapter(COPY)
    try:
        yield model
    finally:
        model.set_adapter(active_adapter)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's description as stored."""
    return json.loads((folder / files.ADAPTER_CONFIG).read_text(encoding="utf-8"))


def sort_target_modules(folder: Path) -> None:
    """Sort the targets of a saved adapter. PEFT keeps them as sets, whose order differs between processes."""
    config = read_adapter_config(folder)
    for name in ("target_modules", "target_parameters"):
        if isinstance(config.get(name), list):
            config[name].sort()
    (folder / files.ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def get_scale(config: dict[str, Any]) -> float:
    """The factor of B A in the update."""
    return config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])


def refuse_unstackable(folder: Path) -> None:
    """Raise ConfigError if an adapter's update is more than scale · B A."""
    config = read_adapter_config(folder)
    feature_names = [name for name in UNSTACKABLE if config.get(name)]
    if config.get("peft_type") != "LORA" or feature_names or config.get("bias", "none") != "none":
        features = ", ".join(feature_names) or f"peft_type={config.get('peft_type')}, bias={config.get('bias')}"
        raise ConfigError(f"{folder}: the adapter uses {features}; merge it first with stage=export, and start from the merged model")
    extras = sorted(name for name in read_shapes(folder) if not name.endswith(ENDINGS_A + ENDINGS_B))
    if extras:
        raise ConfigError(f"{folder}: the adapter holds {extras[0]}; merge it first with stage=export, and start from the merged model")


def read_shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of each tensor of an adapter, by name; raises ConfigError if it has no safetensors file."""
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{folder}: holds no {WEIGHTS}; save the adapter again with save_pretrained, which writes it")
    with safe_open(folder / WEIGHTS, "pt") as weights:
        return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118


def refuse_other_base(folder: Path, model: torch.nn.Module, base: str) -> None:
    """Raise ConfigError if an adapter has updates for layers that the model does not have, or that have another shape there.

    PEFT would ignore such updates, or report an error about a state_dict.
    """
    modules = dict(model.named_modules())
    for name, shape in read_shapes(folder).items():
        layer, _, part = name.removeprefix(PREFIX).partition(".lora_")
        if not part.startswith(("A.weight", "B.weight")):
            continue
        module = modules.get(strip_base_layers(layer))
        layer_width = getattr(module, "in_features" if part.startswith("A") else "out_features", None)
        adapter_width = shape[1] if part.startswith("A") else shape[0]
        if module is None or layer_width not in (None, adapter_width):
            reason = f"is of width {layer_width}, the adapter's of width {adapter_width}" if module is not None else "is not there"
            raise ConfigError(f"{folder}: the adapter belongs on another base than {base}: there {layer} {reason}; name the base it is of")


def strip_base_layers(layer: str) -> str:
    """The name of the module that an adapter changes. If several weights of a module are adapted, PEFT nests them in `base_layer`."""
    while layer.endswith(".base_layer"):
        layer = layer.removesuffix(".base_layer")
    return layer


def untie_adapted_ends(folder: Path, model: Any) -> None:
    """Separate the tied head and input embedding of a base if an adapter changes one of them: a merge would change both."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return
    end_names = {name for name, module in model.named_modules() if module is embeddings or module is head}
    adapted_layers = {strip_base_layers(name.removeprefix(PREFIX).partition(".lora_")[0]) for name in read_shapes(folder)}
    if end_names & adapted_layers:
        head.weight = torch.nn.Parameter(embeddings.weight.detach().clone(), requires_grad=embeddings.weight.requires_grad)
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
        log.info("The adapter changes one of the tied embeddings: they are two from here on")


def get_vocabulary_size(folder: Path, model: Any) -> int | None:
    """The number of rows of the embeddings that an adapter holds; None if it holds no embeddings."""
    names = [name for name, module in model.named_modules() if module in (model.get_input_embeddings(), model.get_output_embeddings())]
    for name, shape in read_shapes(folder).items():
        layer = name.removeprefix(PREFIX)
        if any(layer.startswith(f"{module_name}.") and layer.endswith("weight") and ".lora_" not in layer for module_name in names):
            return shape[0]
    return None


def stack_adapters(first: Path, second: Path) -> None:
    """Rewrite the adapter in `second`, trained on weights with `first` merged in, as one adapter on the original base.

    The sum of two updates is one update of the summed rank: s1·B1 A1 + s2·B2 A2 = [s1·B1, s2·B2] [A1; A2]. The scales move into B, and
    alpha is set to the new rank so that PEFT's own scale is 1. If only one of them
    adapts a layer, the other one counts as zeros. For E experts in one tensor, A is (E·r, in) and B is (out, r·E), and the sum is made for
    each expert.
    """
    configs = [read_adapter_config(first), read_adapter_config(second)]
    weights = [load_file(first / WEIGHTS), load_file(second / WEIGHTS)]
    ranks = [config["r"] for config in configs]
    names = sorted({name for adapter_weights in weights for name in adapter_weights if name.endswith(ENDINGS_A)})
    targets = join_targets(configs, names)
    tensors_by_name: dict[str, torch.Tensor] = {}
    for name_a in names:
        name_b = name_a.replace(".lora_A.", ".lora_B.").replace(".lora_embedding_A", ".lora_embedding_B")
        tensors, tensor_rank = next(
            (adapter_weights, rank) for adapter_weights, rank in zip(weights, ranks, strict=True) if name_a in adapter_weights
        )
        experts, width_in, width_out = tensors[name_a].shape[0] // tensor_rank, tensors[name_a].shape[1], tensors[name_b].shape[0]
        parts_a, parts_b = [], []
        for adapter_weights, rank, config in zip(weights, ranks, configs, strict=True):
            a, b = (
                adapter_weights.get(name_a, torch.zeros(experts * rank, width_in)),
                adapter_weights.get(name_b, torch.zeros(width_out, rank * experts)),
            )
            parts_a.append(a.float().reshape(experts, rank, width_in))
            parts_b.append(b.float().reshape(width_out, rank, experts) * get_scale(config))
        tensors_by_name[name_a] = torch.cat(parts_a, 1).reshape(-1, width_in).contiguous()
        tensors_by_name[name_b] = torch.cat(parts_b, 1).reshape(width_out, -1).contiguous()
    new_config = {**configs[1], "base_model_name_or_path": configs[0]["base_model_name_or_path"], "use_rslora": False}
    new_config |= {"r": sum(ranks), "lora_alpha": sum(ranks), "revision": configs[0].get("revision")}
    new_config |= targets
    save_file(tensors_by_name, second / WEIGHTS, metadata={"format": "pt"})
    (second / files.ADAPTER_CONFIG).write_text(json.dumps(new_config, indent=2) + "\n", encoding="utf-8")


def join_targets(configs: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """The joined targets of two adapters; `names` are the tensors A of both.

    Raises ConfigError if they adapt different weights of a module, because PEFT distinguishes such weights only by their order.
    """
    parameters = [set(config.get("target_parameters") or ()) for config in configs]
    if all(parameters) and parameters[0] != parameters[1]:
        raise ConfigError(
            "adapter.target_modules: the adapter this run starts from is on other weights of experts than its own; name the same, or merge "
            "the first with stage=export"
        )
    module_names = {name.rpartition(".")[0] for name in parameters[0] | parameters[1]}
    adapted_layers = {strip_base_layers(name.removeprefix(PREFIX).partition(".lora_")[0]) for name in names}
    return {
        "target_modules": sorted(layer for layer in adapted_layers if not any(layers.is_named(layer, module) for module in module_names)),
        "target_parameters": sorted(parameters[0] | parameters[1]) or None,
    }
