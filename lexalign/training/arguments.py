"""Our settings as transformers' TrainingArguments, for every trainer."""

from pathlib import Path
from typing import Any

from lexalign.config import hardware
from lexalign.config.schema import Experiment
from lexalign.distributed import collectives, sharding
from lexalign.models.precision import resolve_precision

OPTIMIZERS = {
    "adamw_torch": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "rmsprop": "rmsprop",
    "adafactor": "adafactor",
    "sgd": "sgd",
}


def make_training_arguments(experiment: Experiment, out_dir: Path) -> dict[str, Any]:
    """The arguments of the training loop."""
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
        "save_strategy": "steps" if train.save_steps else "epoch",
        "save_steps": train.save_steps or 500,
        "save_total_limit": train.keep_checkpoints,
        "eval_strategy": "steps" if train.eval_steps else "no",
        "eval_steps": train.eval_steps,
        "logging_steps": train.log_steps,
        "logging_first_step": True,
        "use_cpu": device == "cpu",
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": device == "cuda",
        "remove_unused_columns": False,  # our collators read what they need
        "restore_callback_states_from_checkpoint": True,
        "logging_nan_inf_filter": False,  # the run stops at the first one, see lexalign.training.divergence
        **(sharding.make_arguments(experiment) if collectives.world_size() > 1 else {}),
    }
