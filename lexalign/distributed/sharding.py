"""Settings with which accelerate shards a model, and the check that it did."""

from typing import Any

from transformers import TrainerCallback

from lexalign.config import hardware
from lexalign.config.schema import Experiment, Hardware
from lexalign.distributed import collectives
from lexalign.errors import ConfigError

KINDS = {"ddp": ("MULTI_CPU", "MULTI_GPU"), "fsdp": ("FSDP",), "deepspeed": ("DEEPSPEED",)}
"""accelerate's names of the strategies."""


def make_arguments(experiment: Experiment) -> dict[str, Any]:
    """Make the arguments of transformers' TrainingArguments."""
    common = {"ddp_find_unused_parameters": False, "ddp_timeout": int(collectives.LONG.total_seconds())}
    if experiment.hardware.strategy == "fsdp":
        config = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}
        return {**common, "fsdp": True, "fsdp_config": config}
    if experiment.hardware.strategy == "deepspeed":
        return {**common, "deepspeed": make_zero_config(experiment.hardware.zero)}
    return common


def make_zero_config(stage: int) -> dict[str, Any]:
    """Make the configuration of DeepSpeed's ZeRO. The other values follow the training arguments."""
    return {
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }


def get_local_part(weight: Any) -> Any:
    """Return the local part of a weight: a part under FSDP2 and ZeRO-3, else the whole weight."""
    from torch.distributed.tensor import DTensor

    return weight.to_local() if isinstance(weight, DTensor) else getattr(weight, "ds_tensor", weight)


def get_full_size(weight: Any) -> int:
    """Return the bytes of a whole weight. ZeRO-3 leaves an empty tensor in its place."""
    return getattr(weight, "ds_numel", weight.numel()) * weight.element_size()


def is_model_sharded(model: Any) -> bool:
    """Return whether the weights are sharded. If so, every process must take part in each forward."""
    return any(get_local_part(weight) is not weight for weight in model.parameters())


def check_sharding(accelerator: Any, experiment: Experiment) -> None:
    """Raise ConfigError if accelerate set up another strategy. It falls back without a message."""
    strategy, actual = experiment.hardware.strategy, accelerator.distributed_type.value
    if collectives.world_size() == 1:
        return
    if actual not in KINDS[strategy] or accelerator.num_processes != collectives.world_size():
        raise ConfigError(
            f"hardware={strategy}: accelerate set up {actual} with {accelerator.num_processes} processes "
            f"instead of {collectives.world_size()}; "
            "type hardware=ddp, or hardware=auto"
        )


def enter_zero3(args: Any, *, yes: bool) -> None:
    """Set whether transformers and TRL treat the weights as sharded by ZeRO-3. They are from the moment when DeepSpeed has the model;
    transformers and TRL assume it from the configuration on."""
    if getattr(args, "hf_deepspeed_config", None) is None:
        return
    from transformers.integrations import deepspeed

    deepspeed.set_hf_deepspeed_config(args.hf_deepspeed_config) if yes else deepspeed.unset_hf_deepspeed_config()


def gather_weights(model: Any) -> dict[str, Any] | None:
    """Gather the weights of a sharded model on rank 0. Every process must call it. None if the model is not sharded."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    weights = dict(model.named_parameters(remove_duplicate=False))
    if any(isinstance(weight, DTensor) for weight in weights.values()):
        full_weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    elif is_model_sharded(model):
        full_weights = iterate_gathered(model.state_dict(), weights)
    else:
        return None
    if collectives.is_main():
        first_names: dict[int, str] = {}
        for name, weight in weights.items():  # a tied weight has two names and is written once
            full_weights[name] = full_weights[first_names.setdefault(id(weight), name)]
    return full_weights


def iterate_gathered(state: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """Gather the weights of ZeRO-3 on rank 0, one after the other."""
    from deepspeed import zero

    full_weights = {}
    for name, value in state.items():
        with zero.GatheredParameters([weights[name]] if name in weights else []):
            if collectives.is_main():
                full_weights[name] = weights.get(name, value).detach().cpu().clone()
    return full_weights


class ShardingCheck(TrainerCallback):
    """When training begins: raises ConfigError if sharding was requested and no weight is sharded."""

    def __init__(self, chosen: Hardware):
        self.chosen = chosen

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if hardware.is_sharded(self.chosen) and not is_model_sharded(model):
            raise ConfigError(
                f"hardware={self.chosen.strategy}: no weight is sharded over the GPUs (each holds all of them); type hardware=ddp"
            )
