"""Merge an adapter in each possible way, and choose the result that is nearest to the model that was trained."""

import logging
from dataclasses import dataclass, field
from typing import Any

from lexalign.errors import ArtifactError
from lexalign.evaluation.evaluator import Measurement
from lexalign.evaluation.scoring import Spans
from lexalign.export import comparison, merging
from lexalign.export.source import IN_WORDS, ExportSource, Way

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class MergeChoice:
    """The model to export, with the measurements of the choice. They are empty if no adapter is merged."""

    model: Any
    way: Way
    trained: Measurement = field(default_factory=Measurement)
    ways: dict[Way, Measurement] = field(default_factory=dict)

    @property
    def measurement(self) -> Measurement:
        """The measurement of the chosen model."""
        return self.ways.get(self.way, Measurement())


def choose_nearest(
    subject: ExportSource, trained: Any, tokenizer: Any, spans: list[Spans], *, batch_size: int, max_length: int
) -> MergeChoice:
    """Merge in each way, measure each result against the `trained` model on the same rows, and choose the one with the smallest KL.

    At most two models are in memory at a time. Raises ArtifactError if the nearest is farther away than `export.max_kl`.
    """
    first_way = subject.ways[0]
    if first_way == "unmerged" and subject.dtype == subject.experiment.model.dtype:
        return MergeChoice(model=trained, way=first_way)
    limits = {"batch_size": batch_size, "max_length": max_length}
    choice = MergeChoice(model=None, way=first_way, trained=comparison.measure_perplexity(trained, spans, **limits))
    log.info("As trained: %s", comparison.format_metric("perplexity", choice.trained))
    for way in subject.ways:
        choice.model = None  # free the memory before the next model is loaded
        choice.model = merging.load_merged(subject, way, tokenizer)
        choice.ways[way] = measurement = comparison.measure_distance(trained, choice.model, spans, **limits)
        log.info(
            "%s: %s", IN_WORDS[way].capitalize(), ", ".join(comparison.format_metric(name, measurement) for name in ("kl", "perplexity"))
        )
    choice.way = min(choice.ways, key=lambda way: choice.ways[way].values["kl"])
    refuse_far(subject, choice)
    if choice.way != subject.ways[-1]:
        choice.model = None
        choice.model = merging.load_merged(subject, choice.way, tokenizer)
    return choice


def refuse_far(subject: ExportSource, chosen: MergeChoice) -> None:
    """Raise ArtifactError if the nearest model is too far from the one that was trained."""
    limit, kl = subject.experiment.export.max_kl, chosen.measurement.values["kl"]
    if kl <= limit:  # false for NaN
        return
    distances = "; ".join(f"{IN_WORDS[way]}: {comparison.format_metric('kl', measurement)}" for way, measurement in chosen.ways.items())
    dtype_advice = "" if subject.dtype == "float32" else "export.dtype=float32 rounds less, "
    raise ArtifactError(
        f"stage=export: the exported model differs too much from the one that was trained. KL(trained ‖ exported) on held-out rows, in "
        f"nats a token: {distances}; allowed is export.max_kl={limit:g}. {dtype_advice}export.max_kl={kl * 1.1:.2g} allows it, and the "
        "adapter on its base needs no merging (stage=chat says how it is served)"
    )
