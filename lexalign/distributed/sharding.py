"""How accelerate is to share a model out, in its own words, and whether it did."""

from typing import Any

from transformers import TrainerCallback

from lexalign.config import hardware
from lexalign.config.schema import Experiment, Hardware
from lexalign.distributed import collectives
from lexalign.errors import ConfigError

KINDS = {"ddp": ("MULTI_CPU", "MULTI_GPU"), "fsdp": ("FSDP",), "deepspeed": ("DEEPSPEED",)}
"""accelerate's names of what it set up."""


def make_arguments(experiment: Experiment) -> dict[str, Any]:
    """Arguments of transformers' TrainingArguments."""
    common = {"ddp_find_unused_parameters": False, "ddp_timeout": int(collectives.LONG.total_seconds())}
    if experiment.hardware.strategy == "fsdp":
        wrapped = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}
        return {**common, "fsdp": True, "fsdp_config": wrapped}
    if experiment.hardware.strategy == "deepspeed":
        return {**common, "deepspeed": make_zero_config(experiment.hardware.zero)}
    return common


def make_zero_config(stage: int) -> dict[str, Any]:
    """DeepSpeed's ZeRO, the rest as the arguments say."""
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
    """What this process holds of a weight: of FSDP2's and of ZeRO-3's a part, of others all."""
    from torch.distributed.tensor import DTensor

    return weight.to_local() if isinstance(weight, DTensor) else getattr(weight, "ds_tensor", weight)


def get_full_size(weight: Any) -> int:
    """Bytes of a whole weight: what ZeRO-3 leaves in its place is empty."""
    return getattr(weight, "ds_numel", weight.numel()) * weight.element_size()


def is_model_sharded(model: Any) -> bool:
    """Whether the model's weights are shared out, so that every process has to take part in each forward."""
    return any(get_local_part(weight) is not weight for weight in model.parameters())


def check_sharding(accelerator: Any, experiment: Experiment) -> None:
    """Raises ConfigError where accelerate set up something else than was asked for: it falls back without a word."""
    strategy, got = experiment.hardware.strategy, accelerator.distributed_type.value
    if collectives.world_size() == 1:
        return
    if got not in KINDS[strategy] or accelerator.num_processes != collectives.world_size():
        raise ConfigError(
            f"hardware={strategy}: accelerate set up {got} with {accelerator.num_processes} processes "
            f"instead of {collectives.world_size()}; "
            "type hardware=ddp, or hardware=auto"
        )


def enter_zero3(args: Any, *, yes: bool) -> None:
    """Whether transformers and TRL are to take the weights for ZeRO-3's, which they are from when DeepSpeed has the model and not, as these
    two believe, from when it is configured."""
    if getattr(args, "hf_deepspeed_config", None) is None:
        return
    from transformers.integrations import deepspeed

    deepspeed.set_hf_deepspeed_config(args.hf_deepspeed_config) if yes else deepspeed.unset_hf_deepspeed_config()


def gather_weights(model: Any) -> dict[str, Any] | None:
    """The weights of a model that is shared out, put together on the first process, which all of them must ask for; None where each holds
    all of them."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    weights = dict(model.named_parameters(remove_duplicate=False))
    if any(isinstance(weight, DTensor) for weight in weights.values()):
        found = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    elif is_model_sharded(model):
        found = iterate_gathered(model.state_dict(), weights)
    else:
        return None
    if collectives.is_main():
        first: dict[int, str] = {}
        for name, weight in weights.items():  # a weight of two names is one, and written once
            found[name] = found[first.setdefault(id(weight), name)]
    return found


def iterate_gathered(state: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """ZeRO-3's weights, one after the other, on the first process."""
    from deepspeed import zero

    found = {}
    for name, value in state.items():
        with zero.GatheredParameters([weights[name]] if name in weights else []):
            if collectives.is_main():
                found[name] = weights.get(name, value).detach().cpu().clone()
    return found


class ShardingCheck(TrainerCallback):
    """Once the model is wrapped: raises ConfigError where no weight is shared out although that was asked for."""

    def __init__(self, chosen: Hardware):
        self.chosen = chosen

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if hardware.is_sharded(self.chosen) and not is_model_sharded(model):
            raise ConfigError(
                f"hardware={self.chosen.strategy}: no weight is shared out over the GPUs (each holds all of them); type hardware=ddp"
            )
