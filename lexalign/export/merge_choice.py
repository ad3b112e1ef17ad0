"""Of the ways in which an adapter can be merged, the one that stays nearest to the model that was trained."""

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
    """The model to export, and what was measured on the way to it: nothing, where its weights are those that were trained."""

    model: Any
    way: Way
    trained: Measurement = field(default_factory=Measurement)
    ways: dict[Way, Measurement] = field(default_factory=dict)

    @property
    def measured(self) -> Measurement:
        """Of the model itself."""
        return self.ways.get(self.way, Measurement())


def choose_nearest(
    subject: ExportSource, trained: Any, tokenizer: Any, spans: list[Spans], *, batch_size: int, max_length: int
) -> MergeChoice:
    """Merge in each way, measure each against the `trained` model on the same rows, and keep the one with the smaller KL.

    At most two models are held at a time. Raises ArtifactError where the nearest is farther than `export.max_kl`.
    """
    first = subject.ways[0]
    if first == "unmerged" and subject.dtype == subject.experiment.model.dtype:
        return MergeChoice(model=trained, way=first)
    sized = {"batch_size": batch_size, "max_length": max_length}
    chosen = MergeChoice(model=None, way=first, trained=comparison.measure_perplexity(trained, spans, **sized))
    log.info("As trained: %s", comparison.format_metric("perplexity", chosen.trained))
    for way in subject.ways:
        chosen.model = None  # before the next one is made
        chosen.model = merging.load_merged(subject, way, tokenizer)
        chosen.ways[way] = found = comparison.measure_distance(trained, chosen.model, spans, **sized)
        log.info("%s: %s", IN_WORDS[way].capitalize(), ", ".join(comparison.format_metric(name, found) for name in ("kl", "perplexity")))
    chosen.way = min(chosen.ways, key=lambda way: chosen.ways[way].values["kl"])
    refuse_far(subject, chosen)
    if chosen.way != subject.ways[-1]:
        chosen.model = None
        chosen.model = merging.load_merged(subject, chosen.way, tokenizer)
    return chosen


def refuse_far(subject: ExportSource, chosen: MergeChoice) -> None:
    """Raise ArtifactError where the nearest model is too far from the one that was trained."""
    most, found = subject.experiment.export.max_kl, chosen.measured.values["kl"]
    if found <= most:  # not where it is NaN
        return
    told = "; ".join(f"{IN_WORDS[way]}: {comparison.format_metric('kl', ways)}" for way, ways in chosen.ways.items())
    wider = "" if subject.dtype == "float32" else "export.dtype=float32 rounds less, "
    raise ArtifactError(
        f"stage=export: the exported model would not be the one that was trained. KL(trained ‖ exported) on held-out rows, in nats a "
        f"token: {told}; allowed is export.max_kl={most:g}. {wider}export.max_kl={found * 1.1:.2g} allows it, and the adapter on its base "
        "needs no merging (stage=chat says how it is served)"
    )
