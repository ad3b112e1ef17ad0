"""The memory that a training step needs, the free memory, and the choice of gradient checkpointing."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch

from lexalign.config import hardware
from lexalign.config.schema import Experiment, Train
from lexalign.distributed import collectives
from lexalign.errors import OutOfMemory
from lexalign.models.precision import make_autocast, resolve_precision, resolve_weight_dtype

log = logging.getLogger(__name__)
GB = 1e9
BYTES = {4: 0.56, 8: 1.0}  # a quantized weight with its scales
STATE_BYTES = {"adamw_torch": 8, "adamw_8bit": 2, "rmsprop": 4, "adafactor": 0.1, "sgd": 0}
"""Bytes of optimizer state for each trained parameter."""
# Bytes of activations for each token, layer and hidden unit, with and without gradient checkpointing: Korthikanti et al. 2022, Eq. 1,
# without the attention scores, which SDPA does not keep.
ACTIVATION_BYTES = {True: 2.5, False: 34}
ROOM = 0.8
"""Share of the free memory that an estimate may fill. Above it, gradient checkpointing is switched on."""
DOUBTFUL = 0.3
"""Share of the free memory from which the estimate is not trusted. The largest batch is then tried."""


@dataclass(kw_only=True)
class ModelSizes:
    """Numbers of parameters of the model and of its trained part."""

    total: int
    trained: int
    layers: int
    hidden: int
    vocabulary: int

    @classmethod
    def of(cls, model: Any) -> "ModelSizes":
        """The sizes of a loaded model."""
        config = model.config.get_text_config()
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return cls(
            total=model.num_parameters(),
            trained=trained,
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            vocabulary=config.vocab_size,
        )


def estimate_memory(experiment: Experiment, sizes: ModelSizes, tokens: int, *, checkpointing: bool) -> float:
    """Estimate the bytes for a batch of `tokens` tokens: weights, gradients, optimizer state, activations, logits. It is rough."""
    train, adapter = experiment.train, experiment.adapter
    assert train is not None and adapter is not None
    width = torch.empty(0, dtype=resolve_weight_dtype(experiment)).element_size()
    precision = resolve_precision(experiment.hardware.precision, hardware.resolve_device(experiment.hardware.device))
    copy_width = 2 if precision != "fp32" and width > 2 else 0  # mixed precision also holds the weights in half precision
    weights = sizes.total * (BYTES[adapter.bits] if adapter.bits else width + copy_width)
    training_state = sizes.trained * (4 + STATE_BYTES[train.optimizer])
    width_factor = 1 if precision != "fp32" else 2
    activations = tokens * sizes.layers * sizes.hidden * ACTIVATION_BYTES[checkpointing] * width_factor / 1.5
    logits = 0 if train.fast_path else tokens * sizes.vocabulary * 4 * 2
    return weights + training_state + activations + logits


def get_free_memory(experiment: Experiment) -> float:
    """The free bytes on this run's device."""
    if hardware.resolve_device(experiment.hardware.device) == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available / max(1, hardware.count_local_processes(experiment.hardware))


def needs_gradient_checkpointing(experiment: Experiment, sizes: ModelSizes, tokens: int, there: float) -> bool:
    """Whether to use gradient checkpointing. With auto, only if the estimate without it does not fit into `there`, the free bytes."""
    assert experiment.train is not None
    setting = experiment.train.gradient_checkpointing
    if setting != "auto":
        return bool(setting)
    return estimate_memory(experiment, sizes, tokens, checkpointing=False) > ROOM * there


@dataclass(kw_only=True)
class TriedStep:
    """The result of a trial step: its seconds, its loss, and the other metrics of its batch by name."""

    seconds: float
    loss: float
    noted: dict[str, float]
    checkpointing: bool
    """Whether gradient checkpointing was on: it was on before, or the batch did not fit without it."""


Once = Callable[[Callable[[], TriedStep]], TriedStep]
"""A function that gets a function that tries a step. It returns the step of a new trial, or of an earlier run with the same inputs."""


def settle_gradient_checkpointing(trainer: Any, experiment: Experiment, *, try_once: Once | None = None) -> TriedStep | None:
    """Choose gradient checkpointing, log the reason, and try the largest batch. Returns the trial step; None if none was tried.

    The batch is tried on CUDA and if the estimate is doubtful. In other cases `try_once` tries it, if it is given.

    Raises OutOfMemory if the batch does not fit even with gradient checkpointing.
    """
    assert experiment.train is not None
    generates = getattr(trainer, "generates", False)
    batch = [] if generates else find_worst_batch(trainer, experiment)
    tokens = trainer.largest_batch() if generates else sum(trainer.train_dataset.select(batch)["size"])
    sizes = ModelSizes.of(trainer.model)
    free_bytes = collectives.all_min(get_free_memory(experiment))
    checkpointing = needs_gradient_checkpointing(experiment, sizes, tokens, free_bytes)
    needed_bytes = estimate_memory(experiment, sizes, tokens, checkpointing=checkpointing)
    if checkpointing:
        enable_gradient_checkpointing(trainer)
    summary = f"Memory: the largest batch has {tokens:,} tokens and needs about {needed_bytes / GB:.2f} of {free_bytes / GB:.1f} GB free"
    log.info(
        "%s; gradient checkpointing %s (train.gradient_checkpointing=%s)",
        summary,
        "on" if checkpointing else "off",
        format_setting(experiment),
    )
    if generates:
        log.info("The estimate stands alone: to try that batch, answers would have to be drawn for it")
        return None
    find = partial(try_worst_batches, trainer, experiment, batch, there=free_bytes, checkpointing=checkpointing)
    is_doubtful = needed_bytes >= DOUBTFUL * free_bytes or trainer.args.device.type == "cuda"
    step = find() if is_doubtful else try_once(find) if try_once else None
    if step is not None and step.checkpointing and not checkpointing:
        enable_gradient_checkpointing(trainer)  # again; or for the first time, if the step came from an earlier run
        log.info("That batch fits with gradient checkpointing only; it is on")
    return step


def try_worst_batches(trainer: Any, experiment: Experiment, batch: list[int], *, there: float, checkpointing: bool) -> TriedStep:
    """Try the batch, then the longest held-out rows. Gradient checkpointing is used if the batch does not fit without it.

    Raises OutOfMemory.
    """
    assert experiment.train is not None
    step = try_step(trainer, batch, checkpointing=checkpointing)
    # If one of several processes runs out of memory, the others wait for it inside the loss. It can only end the run with an error.
    is_alone = collectives.world_size() == 1
    if step is None and not checkpointing and experiment.train.gradient_checkpointing == "auto" and is_alone:
        enable_gradient_checkpointing(trainer)
        log.info("Tried: it does not fit; gradient checkpointing on")
        step = try_step(trainer, batch, checkpointing=True)
    if step is None:
        tokens = sum(trainer.train_dataset.select(batch)["size"])
        raise OutOfMemory(f"a batch of {tokens:,} tokens does not fit into {there / GB:.1f} GB; {suggest_smaller_batch(experiment.train)}")
    log.info("Tried: forward and backward took %.1f s", step.seconds)
    try_evaluation(trainer)
    return step


def suggest_smaller_batch(train: Train) -> str:
    """The settings to type so that a batch needs less memory."""
    size = f"train.batch_size (now {train.batch_size})" if train.max_tokens is None else f"train.max_tokens (now {train.max_tokens})"
    more = ", or train.gradient_checkpointing=true" if train.gradient_checkpointing is False or collectives.world_size() > 1 else ""
    return f"type a smaller {size} with more train.gradient_accumulation_steps{more}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed. torch has no separate exception for that on the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def explain_out_of_memory(trainer: Any, experiment: Experiment) -> Iterator[None]:
    """Within the block, a failed allocation raises OutOfMemory with the free memory and the settings to change."""
    assert experiment.train is not None
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        step, message = trainer.state.global_step + 1, str(error).strip().splitlines()[0] or type(error).__name__
        raise OutOfMemory(
            f"step {step}: out of memory ({message}); {get_free_memory(experiment) / GB:.1f} GB are free now. "
            f"{suggest_smaller_batch(experiment.train)}; "
            "what was saved before is whole, and resume_allow=[train] goes on from it with other settings"
        ) from error


def format_setting(experiment: Experiment) -> str:
    """The value of `train.gradient_checkpointing` as a user types it."""
    assert experiment.train is not None
    return str(experiment.train.gradient_checkpointing).lower()


def find_worst_batch(trainer: Any, experiment: Experiment) -> list[int]:
    """Row indices of the batch with the most tokens that training can draw."""
    sampler = trainer.make_train_sampler()
    lengths = trainer.train_dataset["size"]
    if isinstance(batches := getattr(sampler, "batches", None), list):
        return max(batches, key=lambda batch: sum(lengths[row] for row in batch))
    longest = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return longest[: trainer.args.per_device_train_batch_size]


def enable_gradient_checkpointing(trainer: Any) -> None:
    """Switch on non-reentrant gradient checkpointing. It needs no gradient of the embeddings."""
    trainer.model.gradient_checkpointing_enable({"use_reentrant": False})


def try_evaluation(trainer: Any) -> None:
    """Try one forward of the longest rows that are evaluated during training, if there are any. Raises OutOfMemory."""
    rows = trainer.eval_dataset
    if rows is None:
        return
    lengths, size = rows["size"], trainer.args.per_device_eval_batch_size
    longest = sorted(range(len(rows)), key=lambda row: -lengths[row])[:size]
    trainer.model.eval()
    try:
        with torch.no_grad(), trainer.trial(), make_autocast(trainer.experiment):
            trainer.compute_loss(trainer.model, trainer.make_batch(rows, longest))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"the {size} longest held-out rows do not fit at once; type a smaller evaluate.batch_size") from error
    finally:
        trainer.model.train()


def try_step(trainer: Any, batch: list[int], *, checkpointing: bool) -> TriedStep | None:
    """Try a forward and backward of a batch without side effects; None if it does not fit."""
    inputs = trainer.make_batch(trainer.train_dataset, batch)
    start = time.monotonic()
    devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    try:
        with trainer.trial() as windows, torch.random.fork_rng(devices=devices):
            trainer.model.train()
            with make_autocast(trainer.experiment):
                loss = trainer.compute_loss(trainer.model, inputs)
            loss.backward()
            means = windows["train"].means()
        return TriedStep(loss=float(loss.detach()), noted=means, seconds=time.monotonic() - start, checkpointing=checkpointing)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        trainer.model.zero_grad(set_to_none=True)
        if devices:
            torch.cuda.empty_cache()
