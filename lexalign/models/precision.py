"""The types of numbers a run computes in: quantization, the type of the weights, autocast."""

import torch
from transformers import BitsAndBytesConfig

from lexalign.config import hardware
from lexalign.config.schema import Experiment


def get_bits(experiment: Experiment) -> int | None:
    """The quantization of the base; None where it is kept as it is, as where nothing is trained."""
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
    """`model.dtype`; auto = the type the step computes in, so that nothing is cast at each step: bfloat16 where the precision comes to
    bf16 and only an adapter is trained, float32 elsewhere."""
    named = experiment.model.dtype
    if named != "auto":
        return getattr(torch, named)
    full = experiment.adapter is not None and experiment.adapter.kind == "full"
    precision = resolve_precision(experiment.hardware.precision, hardware.resolve_device(experiment.hardware.device))
    return torch.bfloat16 if precision == "bf16" and not full else torch.float32


def resolve_precision(wanted: str, device: str) -> str:
    """`hardware.precision`; auto = bf16 on a CUDA device that has it, fp32 elsewhere."""
    if wanted != "auto":
        return wanted
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def make_autocast(experiment: Experiment) -> torch.autocast:
    """What a training step's forward is computed within: autocast in mixed precision. accelerate puts it around a model only when training
    begins; what is tried or measured at other times is to be computed alike."""
    device = hardware.resolve_device(experiment.hardware.device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(resolve_precision(experiment.hardware.precision, device))
    return torch.autocast(device, dtype=dtype, enabled=dtype is not None)
