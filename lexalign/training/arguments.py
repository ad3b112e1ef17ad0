"""Our settings in the words of transformers' TrainingArguments, for every trainer alike."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from lexalign.config import hardware
from lexalign.config.schema import Experiment
from lexalign.distributed import collectives, sharding
from lexalign.models.adapters import make_lora_config
from lexalign.models.loading import LoadedModel
from lexalign.models.precision import resolve_precision

OPTIMIZERS = {
    "adamw_torch": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "rmsprop": "rmsprop",
    "adafactor": "adafactor",
    "sgd": "sgd",
}


def make_training_arguments(experiment: Experiment, out_dir: Path) -> dict[str, Any]:
    """Arguments of the training loop."""
    train = experiment.train
    assert train is not None
    device = hardware.resolve_device(experiment.hardware.device)
    precision = resolve_precision(experiment.hardware.precision, device)
    return {
        "output_dir": str(out_dir / "checkpoints"),
        "seed": experiment.seed,
        "data_seed": experiment.seed,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.scheduler,
        "optim": OPTIMIZERS[train.optimizer],
        "per_device_train_batch_size": train.batch_size // collectives.world_size(),
        "per_device_eval_batch_size": experiment.evaluate.batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "num_train_epochs": train.epochs,
        "max_steps": train.max_steps or -1,
        "warmup_steps": train.warmup_steps,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "max_length": train.max_length,
        "save_strategy": "steps" if train.save_steps else "epoch",
        "save_steps": train.save_steps or 500,
        "save_total_limit": train.keep_checkpoints,
        "eval_strategy": "steps" if train.eval_steps else "no",
        "eval_steps": train.eval_steps,
        "logging_steps": train.log_steps,
        "logging_first_step": True,
        "activation_checkpointing": False,  # lexalign.training.memory decides
        "use_cpu": device == "cpu",
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": device == "cuda",
        "restore_callback_states_from_checkpoint": True,
        "logging_nan_inf_filter": False,  # the run stops at the first, see lexalign.training.divergence
        **(sharding.make_arguments(experiment) if collectives.world_size() > 1 else {}),
    }


def restore_adapter_settings(model: Any, experiment: Experiment) -> None:
    """Undo what TRL's trainers do to the adapter.

    They switch off every dropout, `adapter.dropout` too; and beside a quantized base they round the trained adapter to bfloat16, where it
    is not what its reference (a copy) is any more, and small steps are lost.
    """
    assert experiment.adapter is not None
    for module in model.modules():
        if isinstance(module, LoraLayer) and isinstance(dropout := module.lora_dropout["default"], torch.nn.Dropout):
            dropout.p = experiment.adapter.dropout or 0.0
    if experiment.adapter.bits is not None:
        parameters = dict(model.named_parameters())
        for name, parameter in parameters.items():
            if parameter.requires_grad:
                whole = parameters.get(name.replace(".default.", ".ref."), parameter)
                parameter.data = whole.data.to(torch.float32, copy=True)


def make_peft_config(experiment: Experiment, loaded: LoadedModel) -> Any:
    """The adapter to train, or None for full training and for an adapter that is trained on."""
    assert experiment.adapter is not None
    if experiment.adapter.kind == "full" or isinstance(loaded.model, PeftModel):
        return None
    return make_lora_config(experiment.adapter, loaded.model)
