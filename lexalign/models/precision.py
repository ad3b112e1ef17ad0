"""The number types of a run: quantization, the type of the weights, autocast."""

import torch
from transformers import BitsAndBytesConfig

from lexalign.config import hardware
from lexalign.config.schema import Experiment


def get_bits(experiment: Experiment) -> int | None:
    """The bits of the quantized base; None if it is not quantized, or if there is no adapter."""
    return experiment.adapter.bits if experiment.adapter is not None else None


def make_quantization_config(experiment: Experiment) -> BitsAndBytesConfig:
    """bitsandbytes: nf4 with double quantization, or int8."""
    if get_bits(experiment) == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=resolve_weight_dtype(experiment),
    )


def resolve_weight_dtype(experiment: Experiment) -> torch.dtype:
    """`model.dtype`; auto = bfloat16 if the precision is bf16 and the base weights are not trained, else float32.

    So a frozen base has the type that the step computes in, and nothing is cast at each step.
    """
    setting = experiment.model.dtype
    if setting != "auto":
        return getattr(torch, setting)
    is_full = experiment.adapter is not None and experiment.adapter.kind == "full"
    precision = resolve_precision(experiment.hardware.precision, hardware.resolve_device(experiment.hardware.device))
    return torch.bfloat16 if precision == "bf16" and not is_full else torch.float32


def resolve_precision(setting: str, device: str) -> str:
    """`hardware.precision`; auto = bf16 on a CUDA device that supports it, else fp32."""
    if setting != "auto":
        return setting
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def make_autocast(experiment: Experiment) -> torch.autocast:
    """The autocast of a training step in mixed precision.

    accelerate adds it to a model only when training begins. Trials and measurements at other times must be computed in the same way.
    """
    device = hardware.resolve_device(experiment.hardware.device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(resolve_precision(experiment.hardware.precision, device))
    return torch.autocast(device, dtype=dtype, enabled=dtype is not None)
