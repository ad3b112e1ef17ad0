"""Measurement of a finished model, without training, beside the model it was trained from."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from lexalign.artifacts.provenance import Provenance, make_reference_experiment
from lexalign.artifacts.result import Result
from lexalign.compat import freeze_first_imports
from lexalign.config import hardware, targets
from lexalign.config.schema import Experiment
from lexalign.data import lengths
from lexalign.data import rows as data_rows
from lexalign.errors import ConfigError
from lexalign.evaluation import summary
from lexalign.models.precision import make_autocast
from lexalign.rewards.panel import Panel

log = logging.getLogger(__name__)
NAMES = ("reference", "model")
TYPE_ANOTHER = "type evaluate.reference=<path>, or evaluate.reference=null to measure without one"


def run(experiment: Experiment, out_dir: Path, tracker: Any) -> Result:
    """Measure the model, and the reference first where there is one; no weights are written."""
    assert experiment.model.path is not None
    splits = data_rows.load_rows(experiment)  # before any weights: bad data are refused in a second
    past = Provenance.of(experiment.model.path)
    reference = make_reference_experiment(
        experiment, past, experiment.evaluate.reference, setting="evaluate.reference", instead=TYPE_ANOTHER
    )
    if experiment.dry_run:
        return plan_evaluation(experiment, reference, len(splits.held_out))
    with freeze_first_imports():
        from lexalign.models.setup import prepare_process

        prepare_process(experiment, rows=len(splits.held_out))
        from lexalign.evaluation import harness, recording
        from lexalign.evaluation.evaluator import Evaluator, Measurement, Reference
        from lexalign.evaluation.measure import measure_all
        from lexalign.models import loading
        from lexalign.models.renderers import make_limit_check, make_renderer

    harness.check_tasks(experiment.evaluate)
    device = hardware.resolve_device(experiment.hardware.device)
    loaded = loading.load_model(experiment)
    policy: Any = loaded.model
    if past.bits:
        log.info("The model was trained on a base of %d bits; it is measured on the base as it is", past.bits)
    encoder = make_renderer(experiment, loaded.tokenizer, model=policy)
    known, splits.train = splits.train + splits.held_out, []  # read for the wordings of beliefs, not measured
    positions = loaded.model.config.get_text_config().max_position_embeddings
    max_length = experiment.evaluate.max_length or past.max_length or positions
    lengths.note_control_tokens(splits, loaded.tokenizer)
    look = make_limit_check(policy, encoder, max_length=max_length, setting="evaluate.max_length")
    measure = lengths.measure_one_by_one(encoder)
    lengths.fit_lengths(splits, measure, max_length=max_length, setting="evaluate.max_length", look=look)
    yardstick = Evaluator(
        encoder=encoder,
        rows=splits.held_out,
        known=known,
        settings=experiment.evaluate,
        max_length=max_length,
        beta=find_beta(experiment, past) if reference else None,
        panel=find_panel(experiment, past),
        shared_belief=past.rewards.get("shared_belief", True),
    )
    before, held_against = Measurement(), None
    if reference is not None:
        other = load_reference(reference, loaded).to(device)
        log.info("Measuring the reference, %s, on %d rows", reference.model.path, len(yardstick.rows))
        with make_autocast(experiment):
            before = measure_all(yardstick, other)
        held_against = Reference(measured=before, borrowed=lambda: contextlib.nullcontext(other))
    log.info("Measuring the model on %d rows", len(yardstick.rows))
    with make_autocast(experiment):
        after = measure_all(yardstick, policy.to(device), held_against)
    result = Result(status="finished", stage=experiment.stage.name, counts=splits.counts)
    result.details = {"model": experiment.model.path, "reference": reference.model.path if reference else None}
    recording.record_measurements(result, yardstick, before, after, out_dir, NAMES)
    recording.report_measurements(result, tracker, NAMES)
    return result


def load_reference(reference: Experiment, loaded: Any) -> Any:
    """The reference; raises ConfigError where it reads and writes other tokens."""
    from lexalign.models import loading

    found = loading.load_model(reference)
    same_width = found.model.config.get_text_config().vocab_size == loaded.model.config.get_text_config().vocab_size
    if not same_width or found.tokenizer.get_vocab() != loaded.tokenizer.get_vocab():
        path = reference.model.path
        raise ConfigError(f"evaluate.reference: {path} has another vocabulary, so no token of one is a token of the other; {TYPE_ANOTHER}")
    return found.model


def find_beta(experiment: Experiment, past: Provenance) -> float | None:
    """Scale of the rewards, None where there are neither pairs nor labels."""
    if experiment.data.columns.chosen is None and experiment.data.columns.label is None:
        return None
    beta = experiment.evaluate.beta or past.rewards.get("beta")
    log.info("Rewards: log-ratios times beta=%g%s", beta or 1.0, "" if beta else " (the model was trained with none)")
    return beta or 1.0


def find_panel(experiment: Experiment, past: Provenance) -> Panel | None:
    """The rewards that the model was trained for; None where it was for none, or where these data do not let them be asked, which is said.

    A manifest may come from anybody: its code is held to what a configuration may name.
    """
    if not past.listed:
        return None
    try:
        if problems := targets.find_target_problems(past.listed, [targets.OWN_PACKAGE, *experiment.extensions], "method.rewards"):
            raise ConfigError(problems)
        return Panel.listed(past.listed, experiment)
    except ConfigError as error:
        log.warning("The rewards that the model was trained for are not measured: %s", error)
        return None


def plan_evaluation(experiment: Experiment, reference: Experiment | None, rows: int) -> Result:
    """`dry_run=true`: what would be measured."""
    facts = {
        "stage": experiment.stage.name,
        "model": str(experiment.model.path),
        "reference": str(reference.model.path) if reference else "none",
        "data": f"{experiment.data.path}: {min(rows, experiment.evaluate.limit or rows):,} of {rows:,} rows",
        "device": hardware.resolve_device(experiment.hardware.device),
    }
    summary.show_plan_table(facts, "nothing is measured")
    return Result(status="planned", stage=experiment.stage.name, counts={"held_out_rows": rows}, details={"plan": facts})
