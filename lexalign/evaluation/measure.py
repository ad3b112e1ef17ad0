"""Measure a model on the held-out rows, with every measure that these rows allow. A new measure needs a module and a line in MEASURES."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from lexalign.artifacts.files import write_json
from lexalign.data.rows import Row
from lexalign.evaluation import beliefs, harness, judge, likelihood, pairs, rewards, samples, unpaired
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement
from lexalign.models.generation import list_ignored_settings

log = logging.getLogger(__name__)

Measure = Callable[[Evaluator, torch.nn.Module, Measurement, MeasuredReference | None], None]
"""Records its metrics of this model in the Measurement, compared with the reference if there is one. It records nothing if the rows do not
fit."""
MEASURES: tuple[Measure, ...] = (
    likelihood.measure,
    pairs.measure,
    unpaired.measure,
    beliefs.measure,
    rewards.measure,
    samples.measure,
    judge.measure,
    harness.measure,
)


def measure_all(evaluator: Evaluator, model: torch.nn.Module, reference: MeasuredReference | None = None) -> Measurement:
    """Run every measure, in order. Without a reference the model is compared with itself: its rewards are 0."""
    measurement = Measurement()
    was_training = model.training
    if reference is None and (ignored_settings := list_ignored_settings(model)):
        settings_text = ", ".join(f"{name}={value}" for name, value in ignored_settings.items())
        log.info(
            "Answers are drawn without what the model's generation_config.json says of it (%s), so that models are drawn alike",
            settings_text,
        )
    for measure in MEASURES:
        measure(evaluator, model, measurement, reference)
    model.train(was_training)
    return measurement


def write_measurements(path: Path, rows: list[Row], before: Measurement, after: Measurement) -> None:
    """Write both measurements row by row, for `compare`. The digest of `rows` shows whether two runs were measured on the same rows."""
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    tables = {
        when: {name: dataclasses.asdict(row_values) for name, row_values in measurement.rows.items()}
        for when, measurement in (("before", before), ("after", after))
    }
    write_json(path, {"rows": digest, **tables})
