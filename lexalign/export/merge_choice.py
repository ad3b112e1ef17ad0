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
    first = subject.ways[0]
    if first == "unmerged" and subject.dtype == subject.experiment.model.dtype:
        return MergeChoice(model=trained, way=first)
    sized = {"batch_size": batch_size, "max_length": max_length}
    chosen = MergeChoice(model=None, way=first, trained=comparison.measure_perplexity(trained, spans, **sized))
    log.info("As trained: %s", comparison.format_metric("perplexity", chosen.trained))
    for way in subject.ways:
        chosen.model = None  # free the memory before the next one is made
        chosen.model = merging.load_merged(subject, way, tokenizer)
        chosen.ways[way] = measurement = comparison.measure_distance(trained, chosen.model, spans, **sized)
        log.info(
            "%s: %s", IN_WORDS[way].capitalize(), ", ".join(comparison.format_metric(name, measurement) for name in ("kl", "perplexity"))
        )
    chosen.way = min(chosen.ways, key=lambda way: chosen.ways[way].values["kl"])
    refuse_far(subject, chosen)
    if chosen.way != subject.ways[-1]:
        chosen.model = None
        chosen.model = merging.load_merged(subject, chosen.way, tokenizer)
    return chosen


def refuse_far(subject: ExportSource, chosen: MergeChoice) -> None:
    """Raise ArtifactError if the nearest model is too far from the one that was trained."""
    most, kl = subject.experiment.export.max_kl, chosen.measurement.values["kl"]
    if kl <= most:  # false for NaN
        return
    distances = "; ".join(f"{IN_WORDS[way]}: {comparison.format_metric('kl', measurement)}" for way, measurement in chosen.ways.items())
    wider = "" if subject.dtype == "float32" else "export.dtype=float32 rounds less, "
    raise ArtifactError(
        f"stage=export: the exported model differs too much from the one that was trained. KL(trained ‖ exported) on held-out rows, in "
        f"nats a token: {distances}; allowed is export.max_kl={most:g}. {wider}export.max_kl={kl * 1.1:.2g} allows it, and the "
        "adapter on its base needs no merging (stage=chat says how it is served)"
    )
