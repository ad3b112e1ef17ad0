"""Resolves `hardware=auto`: one GPU, several, or none. Each GPU has the whole model, or a part of it."""

import dataclasses
import logging

from lexalign.config import hardware
from lexalign.config.schema import Experiment

log = logging.getLogger(__name__)
GB = 1e9


def resolve_strategy(experiment: Experiment) -> Experiment:
    """The experiment with `hardware.strategy=auto` resolved from the memory that a step needs and the GPU memory. Logs the reason."""
    if experiment.hardware.strategy != "auto":
        return experiment
    gpus = hardware.count_cuda_devices() if hardware.resolve_device(experiment.hardware.device) == "cuda" else 0
    if not gpus or experiment.method is None or experiment.dry_run:
        return choose_strategy(experiment, "single", 1)
    from lexalign.models import loading
    from lexalign.training import memory, plan

    assert experiment.train is not None and experiment.model.path is not None and experiment.adapter is not None
    rows, train = experiment.train.batch_size, experiment.train
    world = max(count for count in range(1, gpus + 1) if rows % count == 0)
    sizes = plan.count_parameters(experiment, loading.find_source(experiment.model.path, experiment.model.revision))
    tokens = train.max_tokens or rows // world * train.max_length * (2 if experiment.stage.name == "align" else 1)
    needed_bytes, total_bytes = memory.estimate_memory(experiment, sizes, tokens, checkpointing=True), hardware.get_cuda_memory()
    reason = f"a step of at most {tokens:,} tokens needs about {needed_bytes / GB:.1f} of {total_bytes / GB:.1f} GB on each of {gpus} GPUs"
    fits = needed_bytes <= memory.ROOM * total_bytes
    if world == 1 or train.max_tokens is not None:
        if not fits and experiment.adapter.bits is None:
            log.warning("Hardware: %s; type adapter=qlora (method=qlora for stage=sft), or a smaller train.batch_size", reason)
        return choose_strategy(experiment, "single", 1)
    strategy = "ddp" if fits else "fsdp"
    idle_note = f"; {gpus - world} are left idle: train.batch_size={rows} does not divide by {gpus}" if world < gpus else ""
    log.info("Hardware: %s x %d: %s%s (hardware=auto)", strategy, world, reason, idle_note)
    return choose_strategy(experiment, strategy, world)


def choose_strategy(experiment: Experiment, strategy: str, processes: int) -> Experiment:
    """The experiment with this strategy and number of processes."""
    settings = dataclasses.replace(experiment.hardware, strategy=strategy, processes=processes)  # type: ignore[arg-type]
    return dataclasses.replace(experiment, hardware=settings)
