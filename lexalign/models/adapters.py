"""LoRA adapters as files: how one is described, and how two that follow each other become one."""

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
# Features of an adapter under which its update is not simply scale · B A, so that it cannot be stacked with another.
UNSTACKABLE = (
    "use_dora", "modules_to_save", "trainable_token_indices", "rank_pattern", "alpha_pattern", "lora_bias", "layer_replication",
)  # fmt: skip


def make_lora_config(adapter: Adapter, model: Any) -> LoraConfig:
    """PEFT's description of an adapter; raises ConfigError for a target module the model does not have, or that cannot have one."""
    assert adapter.rank is not None and adapter.alpha is not None and adapter.dropout is not None and adapter.target_modules is not None
    chosen = layers.choose_layers(model, adapter.target_modules, dropout=adapter.dropout)
    layers.report_layers(chosen)
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # declared a whole number, used as a number
        lora_dropout=adapter.dropout,
        target_modules=chosen.modules,
        target_parameters=chosen.parameters or None,
        fan_in_fan_out=bool(chosen.modules) and all(isinstance(model.get_submodule(name), Conv1D) for name in chosen.modules),
        task_type="CAUSAL_LM",
    )


COPY = "ref"
"""Name of the frozen copy of an adapter that is trained on: the reference."""


def add_frozen_copy(model: PeftModel) -> None:
    """Keep the adapter of a model as it is now, as an adapter of its own that is not trained."""
    model.add_adapter(COPY, model.peft_config["default"])
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            if ".default." in name:
                kept = weights[name.replace(".default.", f".{COPY}.")]
                kept.data = weight.data.clone()
                kept.requires_grad_(False)


@contextmanager
def use_start_model(model: Any) -> Iterator[Any]:
    """Within the block, the model as its run found it: with the frozen copy of its adapter where it has one, else without an adapter."""
    if COPY not in model.peft_config:
        with model.disable_adapter():
            yield model
        return
    active = model.active_adapter
    model.set_adapter(COPY)
    try:
        yield model
    finally:
        model.set_adapter(active)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's description as stored."""
    return json.loads((folder / files.ADAPTER_CONFIG).read_text(encoding="utf-8"))


def sort_target_modules(folder: Path) -> None:
    """Write the targets of a saved adapter in order: PEFT keeps them as sets, whose order differs from process to process."""
    config = read_adapter_config(folder)
    for name in ("target_modules", "target_parameters"):
        if isinstance(config.get(name), list):
            config[name].sort()
    (folder / files.ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def get_scale(config: dict[str, Any]) -> float:
    """Factor of B A in the update."""
    return config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])


def refuse_unstackable(folder: Path) -> None:
    """Raise ConfigError where an adapter's update is more than scale · B A."""
    config = read_adapter_config(folder)
    used = [name for name in UNSTACKABLE if config.get(name)]
    if config.get("peft_type") != "LORA" or used or config.get("bias", "none") != "none":
        what = ", ".join(used) or f"peft_type={config.get('peft_type')}, bias={config.get('bias')}"
        raise ConfigError(f"{folder}: the adapter uses {what}; merge it first with stage=export, and start from the merged model")
    other = sorted(name for name in read_shapes(folder) if not name.endswith(ENDINGS_A + ENDINGS_B))
    if other:
        raise ConfigError(f"{folder}: the adapter holds {other[0]}; merge it first with stage=export, and start from the merged model")


def read_shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of each tensor of an adapter, by name; raises ConfigError where its weights are not there as safetensors."""
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{folder}: holds no {WEIGHTS}; save the adapter again with save_pretrained, which writes it")
    with safe_open(folder / WEIGHTS, "pt") as weights:
        return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118


def refuse_other_base(folder: Path, model: torch.nn.Module, base: str) -> None:
    """Raise ConfigError where an adapter has updates for layers that the model does not have, or of another shape; PEFT leaves such
    updates out, or speaks of a state_dict."""
    modules = dict(model.named_modules())
    for name, shape in read_shapes(folder).items():
        layer, _, part = name.removeprefix(PREFIX).partition(".lora_")
        if not part.startswith(("A.weight", "B.weight")):
            continue
        module = modules.get(strip_base_layers(layer))
        wanted = getattr(module, "in_features" if part.startswith("A") else "out_features", None)
        has = shape[1] if part.startswith("A") else shape[0]
        if module is None or wanted not in (None, has):
            found = f"is of width {wanted}, the adapter's of width {has}" if module is not None else "is not there"
            raise ConfigError(f"{folder}: the adapter belongs on another base than {base}: there {layer} {found}; name the base it is of")


def strip_base_layers(layer: str) -> str:
    """The module that an adapter is on: of a module with several adapted weights, the inner ones stand below `base_layer`."""
    while layer.endswith(".base_layer"):
        layer = layer.removesuffix(".base_layer")
    return layer


def untie_adapted_ends(folder: Path, model: Any) -> None:
    """Give a base whose output head is its input embedding two of them, where an adapter is on one: merged, it would change both."""
    given, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not given.weight:
        return
    ends = {name for name, module in model.named_modules() if module is given or module is head}
    adapted = {strip_base_layers(name.removeprefix(PREFIX).partition(".lora_")[0]) for name in read_shapes(folder)}
    if ends & adapted:
        head.weight = torch.nn.Parameter(given.weight.detach().clone(), requires_grad=given.weight.requires_grad)
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
        log.info("The adapter changes one of the tied embeddings: they are two from here on")


def get_vocabulary_size(folder: Path, model: Any) -> int | None:
    """Rows of the embeddings that an adapter holds itself; None where it holds none."""
    names = [name for name, module in model.named_modules() if module in (model.get_input_embeddings(), model.get_output_embeddings())]
    for name, shape in read_shapes(folder).items():
        layer = name.removeprefix(PREFIX)
        if any(layer.startswith(f"{known}.") and layer.endswith("weight") and ".lora_" not in layer for known in names):
            return shape[0]
    return None


def stack_adapters(first: Path, second: Path) -> None:
    """Rewrite the adapter in `second`, trained on weights with `first` merged in, as one adapter on the original base.

    The sum of two updates is one update of the summed rank: s1·B1 A1 + s2·B2 A2 = [s1·B1, s2·B2] [A1; A2]. The scales move into B, and
    alpha is set to the new rank so that PEFT's own scale is 1. A layer only one of them adapts gets zeros for the other. Of experts in one
    tensor (E experts), A is (E·r, in) and B (out, r·E), and the sum is made expert by expert.
    """
    configs = [read_adapter_config(first), read_adapter_config(second)]
    weights = [load_file(first / WEIGHTS), load_file(second / WEIGHTS)]
    ranks = [config["r"] for config in configs]
    names = sorted({name for part in weights for name in part if name.endswith(ENDINGS_A)})
    targets = join_targets(configs, names)
    stacked: dict[str, torch.Tensor] = {}
    for name_a in names:
        name_b = name_a.replace(".lora_A.", ".lora_B.").replace(".lora_embedding_A", ".lora_embedding_B")
        present, rank_there = next((part, rank) for part, rank in zip(weights, ranks, strict=True) if name_a in part)
        experts, narrow, wide = present[name_a].shape[0] // rank_there, present[name_a].shape[1], present[name_b].shape[0]
        parts_a, parts_b = [], []
        for part, rank, config in zip(weights, ranks, configs, strict=True):
            a, b = part.get(name_a, torch.zeros(experts * rank, narrow)), part.get(name_b, torch.zeros(wide, rank * experts))
            parts_a.append(a.float().reshape(experts, rank, narrow))
            parts_b.append(b.float().reshape(wide, rank, experts) * get_scale(config))
        stacked[name_a] = torch.cat(parts_a, 1).reshape(-1, narrow).contiguous()
        stacked[name_b] = torch.cat(parts_b, 1).reshape(wide, -1).contiguous()
    merged = {**configs[1], "base_model_name_or_path": configs[0]["base_model_name_or_path"], "use_rslora": False}
    merged |= {"r": sum(ranks), "lora_alpha": sum(ranks), "revision": configs[0].get("revision")}
    merged |= targets
    save_file(stacked, second / WEIGHTS, metadata={"format": "pt"})
    (second / files.ADAPTER_CONFIG).write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")


def join_targets(configs: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """The targets of two adapters in one; `names` are the tensors A of both. Raises ConfigError where they adapt other weights of a module,
    which PEFT tells apart by their order alone."""
    parameters = [set(config.get("target_parameters") or ()) for config in configs]
    if all(parameters) and parameters[0] != parameters[1]:
        raise ConfigError(
            "adapter.target_modules: the adapter this run starts from is on other weights of experts than its own; name the same, or merge "
            "the first with stage=export"
        )
    within = {name.rpartition(".")[0] for name in parameters[0] | parameters[1]}
    adapted = {strip_base_layers(name.removeprefix(PREFIX).partition(".lora_")[0]) for name in names}
    return {
        "target_modules": sorted(layer for layer in adapted if not any(layers.is_named(layer, module) for module in within)),
        "target_parameters": sorted(parameters[0] | parameters[1]) or None,
    }
