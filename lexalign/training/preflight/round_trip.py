"""Saves and loads the artifact before training, to find errors early."""

import contextlib
import dataclasses
import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lexalign.artifacts import files
from lexalign.config.schema import Experiment
from lexalign.errors import ArtifactError
from lexalign.models import loading
from lexalign.models.saving import write_model
from lexalign.training import memory

log = logging.getLogger(__name__)
TOLERANCE = {torch.float32: 1e-4}
LOW_TOLERANCE = 0.05
"""Allowed difference, as a share of the largest logit. A merged adapter rounds differently from a separate one. An 8-bit layer rounds its
input to 8 bits, and the last bit of a float can change the result."""
TOKENS = 64
SPREAD = 0.02
"""Standard deviation of the noise that is added to the trained weights. A new adapter is zero, so its loss would not change the logits."""


def explain_no_room(trainer: Any, experiment: Experiment) -> str:
    """The reason why the check is skipped: a second copy of the model does not fit. Empty if it fits."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in trainer.model.parameters())
    free_bytes = memory.get_free_memory(experiment)
    if weights <= memory.ROOM * free_bytes:
        return ""
    return f"not tried: a second copy of the model takes {weights / memory.GB:.1f} of {free_bytes / memory.GB:.1f} GB free"


def check_round_trip(trainer: Any, loaded: loading.LoadedModel, experiment: Experiment, out_dir: Path, ids: list[int]) -> str:
    """Save the model as at the end of a run, load it as the next run does, and compare the logits. Returns the result in words.

    Raises ArtifactError if the logits differ.
    """
    folder = out_dir / f"{files.ASIDE}{uuid.uuid4().hex}"  # if this process is killed, the next start removes it
    try:
        with perturb_weights(trainer.model, keep=experiment.adapter is not None and experiment.adapter.kind == "full"):
            write_model(loaded, trainer.model, folder, {}, {})
            logits = compute_logits(trainer.model, ids)
        model_settings = dataclasses.replace(experiment.model, path=str(folder.resolve()), parent=None, revision=None)
        loaded_logits = compute_logits(
            loading.load_model(dataclasses.replace(experiment, model=model_settings)).model.to(trainer.args.device), ids
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    difference = float((loaded_logits - logits).abs().max() / logits.abs().max())
    # TRL computes an adapter on a quantized base in bfloat16, whatever the type of the other weights is.
    types = {parameter.dtype for parameter in trainer.model.parameters() if parameter.is_floating_point()}
    rounds_inputs = experiment.adapter is not None and experiment.adapter.bits == 8
    tolerance = LOW_TOLERANCE if rounds_inputs else TOLERANCE.get(min(types, key=lambda kind: kind.itemsize), LOW_TOLERANCE)
    if not difference <= tolerance:
        raise ArtifactError(
            f"preflight: the model, saved and loaded again, answers otherwise: its logits differ by {difference:.2g} of the largest "
            f"(allowed {tolerance:g}), so what this run leaves would not be what it trained (preflight.round_trip=false goes on)"
        )
    return f"saved, loaded again and equal ({difference:.1e} of the largest logit apart)"


@contextlib.contextmanager
def perturb_weights(model: torch.nn.Module, *, keep: bool) -> Iterator[None]:
    """Within the block, the trained weights have noise. After it, they have exactly their old values. `keep` adds no noise."""
    parameters = [] if keep else [parameter for parameter in model.parameters() if parameter.requires_grad]
    values = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in parameters:
            parameter.data += SPREAD * torch.randn(parameter.shape, generator=generator).to(parameter)
        yield
    finally:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data.copy_(value)


@torch.no_grad()
def compute_logits(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """The logits of the first tokens of a sequence, (T, V), in evaluation mode."""
    was_training = model.training
    model.eval()
    logits = model(input_ids=torch.tensor([ids[:TOKENS]], device=next(model.parameters()).device), use_cache=False).logits[0].float()
    model.train(was_training)
    return logits
