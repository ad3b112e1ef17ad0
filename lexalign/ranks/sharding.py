"""How accelerate is to share a model out, in its own words, and whether it did."""

from typing import Any

from transformers import TrainerCallback

from lexalign.errors import ConfigError
from lexalign.ranks import group
from lexalign.schema import Experiment

KINDS = {"ddp": ("MULTI_CPU", "MULTI_GPU"), "fsdp": ("FSDP",), "deepspeed": ("DEEPSPEED",)}
"""accelerate's names of what it set up."""


def arguments(experiment: Experiment) -> dict[str, Any]:
    """Arguments of transformers' TrainingArguments."""
    common = {"ddp_find_unused_parameters": False, "ddp_timeout": int(group.LONG.total_seconds())}
    if experiment.hardware.strategy == "fsdp":
        wrapped = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}
        return {**common, "fsdp": True, "fsdp_config": wrapped}
    if experiment.hardware.strategy == "deepspeed":
        return {**common, "deepspeed": zero()}
    return common


def zero() -> dict[str, Any]:
    """DeepSpeed's ZeRO-2, the rest as the arguments say. Not ZeRO-3: a run's weights are saved from the model, which would hold none."""
    return {
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }


def check(accelerator: Any, experiment: Experiment) -> None:
    """Raises ConfigError where accelerate set up something else than was asked for: it falls back without a word."""
    strategy, got = experiment.hardware.strategy, accelerator.distributed_type.value
    if group.size() == 1:
        return
    if got not in KINDS[strategy] or accelerator.num_processes != group.size():
        raise ConfigError(
            f"hardware={strategy}: accelerate set up {got} with {accelerator.num_processes} processes instead of {group.size()}; "
            "type hardware=ddp, or hardware=auto"
        )


def whole(model: Any) -> dict[str, Any] | None:
    """The weights of a model that is shared out, put together on the first process, which all of them must ask for; None where each holds
    all of them."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    if not any(isinstance(weight, DTensor) for weight in model.parameters()):
        return None
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


class InParts(TrainerCallback):
    """Once the model is wrapped: raises ConfigError where no weight is shared out although that was asked for."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        from torch.distributed.tensor import DTensor

        if not any(isinstance(weight, DTensor) for weight in model.parameters()):
            raise ConfigError("hardware=fsdp: no weight is shared out over the GPUs (each holds all of them); type hardware=ddp")
