"""One measurement of a model on the held-out rows: every measure that they allow. A new one is a module and a line in MEASURES."""

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
"""Records in the Measured what it can say of this model on these rows, held against the reference where there is one; else nothing."""
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
    """Every measure, in order. Without a reference the model is its own: its rewards are 0."""
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
    """Both measurements row by row, for `compare`; `rows` tells whether two runs were measured on the same."""
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    tables = {
        when: {name: dataclasses.asdict(row_values) for name, row_values in measurement.rows.items()}
        for when, measurement in (("before", before), ("after", after))
    }
    write_json(path, {"rows": digest, **tables})
