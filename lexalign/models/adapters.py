"""LoRA adapters as files: how one is described, and how two that follow each other become one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lexalign.artifacts import files
from lexalign.config.parsing import suggest_nearest
from lexalign.config.schema import Adapter
from lexalign.errors import ConfigError

WEIGHTS = "adapter_model.safetensors"
# Features of an adapter under which its update is not simply scale · B A, so that it cannot be stacked with another.
UNSTACKABLE = (
    "use_dora", "modules_to_save", "trainable_token_indices", "rank_pattern", "alpha_pattern", "target_parameters", "lora_bias",
    "layer_replication",
)  # fmt: skip


def make_lora_config(adapter: Adapter, model: torch.nn.Module) -> LoraConfig:
    """PEFT's description of an adapter; raises ConfigError for a target module the model does not have."""
    targets: Any = adapter.target_modules
    if targets == "auto":
        targets = "all-linear"
    else:
        names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        leaves = sorted({name.rpartition(".")[2] for name in names})
        for target in targets or []:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                raise ConfigError(
                    f"adapter.target_modules: the model has no linear layer {target!r}; it has {', '.join(leaves)}"
                    f"{suggest_nearest(target, leaves)}"
                )
    assert adapter.rank is not None and adapter.alpha is not None and adapter.dropout is not None
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # declared a whole number, used as a number
        lora_dropout=adapter.dropout,
        target_modules=targets,
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
    """Write the target modules of a saved adapter in order: PEFT keeps them as a set, whose order differs from process to process."""
    config = read_adapter_config(folder)
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
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
    other = sorted(name for name in read_shapes(folder) if not name.endswith((".lora_A.weight", ".lora_B.weight")))
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
        layer, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        if not part.startswith(("A.weight", "B.weight")):
            continue
        module = modules.get(layer)
        wanted = getattr(module, "in_features" if part.startswith("A") else "out_features", None)
        has = shape[1] if part.startswith("A") else shape[0]
        if module is None or wanted not in (None, has):
            found = f"is of width {wanted}, the adapter's of width {has}" if module is not None else "is not there"
            raise ConfigError(f"{folder}: the adapter belongs on another base than {base}: there {layer} {found}; name the base it is of")


def get_vocabulary_size(folder: Path, model: Any) -> int | None:
    """Rows of the embeddings that an adapter holds itself; None where it holds none."""
    names = [name for name, module in model.named_modules() if module in (model.get_input_embeddings(), model.get_output_embeddings())]
    for name, shape in read_shapes(folder).items():
        layer = name.removeprefix("base_model.model.")
        if any(layer.startswith(f"{known}.") and layer.endswith("weight") and ".lora_" not in layer for known in names):
            return shape[0]
    return None


def stack_adapters(first: Path, second: Path) -> None:
    """Rewrite the adapter in `second`, trained on weights with `first` merged in, as one adapter on the original base.

    The sum of two updates is one update of the summed rank: s1·B1 A1 + s2·B2 A2 = [s1·B1, s2·B2] [A1; A2]. The scales move into B, and
    alpha is set to the new rank so that PEFT's own scale is 1. A layer only one of them adapts gets zeros for the other.
    """
    configs = [read_adapter_config(first), read_adapter_config(second)]
    weights = [load_file(first / WEIGHTS), load_file(second / WEIGHTS)]
    ranks = [config["r"] for config in configs]
    layers = sorted({name.replace(".lora_B.", ".lora_A.") for part in weights for name in part})
    stacked: dict[str, torch.Tensor] = {}
    for name_a in layers:
        name_b = name_a.replace(".lora_A.", ".lora_B.")
        present = [part for part in weights if name_a in part][0]
        parts_a, parts_b = [], []
        for part, rank, config in zip(weights, ranks, configs, strict=True):
            a = part.get(name_a, torch.zeros(rank, present[name_a].shape[1]))
            b = part.get(name_b, torch.zeros(present[name_b].shape[0], rank))
            parts_a.append(a.float())
            parts_b.append(b.float() * get_scale(config))
        stacked[name_a] = torch.cat(parts_a, 0).contiguous()
        stacked[name_b] = torch.cat(parts_b, 1).contiguous()
    merged = {**configs[1], "base_model_name_or_path": configs[0]["base_model_name_or_path"], "use_rslora": False}
    merged |= {"r": sum(ranks), "lora_alpha": sum(ranks), "revision": configs[0].get("revision")}
    merged["target_modules"] = sorted({name.split(".lora_A")[0].rpartition(".")[2] for name in layers})
    save_file(stacked, second / WEIGHTS, metadata={"format": "pt"})
    (second / files.ADAPTER_CONFIG).write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")
