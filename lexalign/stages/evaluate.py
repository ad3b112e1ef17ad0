"""`stage=evaluate`: measure a finished model, and its reference: by default the model that it was trained from."""

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
    """Measure the reference, if there is one, then the model. No weights are written."""
    assert experiment.model.path is not None
    splits = data_rows.load_rows(experiment)  # before any weights are loaded, so that wrong data are refused at once
    past = Provenance.read(experiment.model.path)
    reference = make_reference_experiment(
        experiment, past, experiment.evaluate.reference, setting="evaluate.reference", instead=TYPE_ANOTHER
    )
    if experiment.dry_run:
        return plan_evaluation(experiment, reference, len(splits.held_out))
    with freeze_first_imports():
        from lexalign.models.setup import prepare_process

        prepare_process(experiment, rows=len(splits.held_out))
        from lexalign.evaluation import harness, recording
        from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement
        from lexalign.evaluation.measure import measure_all
        from lexalign.models import loading
        from lexalign.models.renderers import make_limit_check, make_renderer

    harness.check_tasks(experiment.evaluate)
    device = hardware.resolve_device(experiment.hardware.device)
    loaded_model = loading.load_model(experiment)
    policy: Any = loaded_model.model
    if past.bits:
        log.info("The model was trained on a base of %d bits; it is measured on the unquantized base", past.bits)
    encoder = make_renderer(experiment, loaded_model.tokenizer, model=policy)
    all_rows, train_rows, splits.train = splits.train + splits.held_out, splits.train, []  # all_rows help to recognize beliefs
    positions = loaded_model.model.config.get_text_config().max_position_embeddings
    max_length = experiment.evaluate.max_length or past.max_length or positions
    lengths.note_control_tokens(splits, loaded_model.tokenizer)
    limit_check = make_limit_check(policy, encoder, max_length=max_length, setting="evaluate.max_length")
    measure = lengths.measure_one_by_one(encoder)
    lengths.fit_lengths(splits, measure, max_length=max_length, setting="evaluate.max_length", look=limit_check)
    evaluator = Evaluator(
        encoder=encoder,
        rows=splits.held_out,
        known=all_rows,
        train_rows=train_rows,
        settings=experiment.evaluate,
        max_length=max_length,
        beta=find_beta(experiment, past) if reference else None,
        panel=find_panel(experiment, past),
        shared_belief=past.rewards.get("shared_belief", True),
    )
    before, measured_reference = Measurement(), None
    if reference is not None:
        reference_model = load_reference(reference, loaded_model).to(device)
        log.info("Measuring the reference, %s, on %d rows", reference.model.path, len(evaluator.rows))
        with make_autocast(experiment):
            before = measure_all(evaluator, reference_model)
        measured_reference = MeasuredReference(measured=before, borrowed=lambda: contextlib.nullcontext(reference_model))
    log.info("Measuring the model on %d rows", len(evaluator.rows))
    with make_autocast(experiment):
        after = measure_all(evaluator, policy.to(device), measured_reference)
    result = Result(status="finished", stage=experiment.stage.name, counts=splits.counts)
    result.details = {"model": experiment.model.path, "reference": reference.model.path if reference else None}
    recording.record_measurements(result, evaluator, before, after, out_dir, NAMES)
    recording.report_measurements(result, tracker, NAMES)
    return result


def load_reference(reference: Experiment, loaded: Any) -> Any:
    """Load the reference. Raises ConfigError if its vocabulary differs."""
    from lexalign.models import loading

    loaded_reference = loading.load_model(reference)
    same_width = loaded_reference.model.config.get_text_config().vocab_size == loaded.model.config.get_text_config().vocab_size
    if not same_width or loaded_reference.tokenizer.get_vocab() != loaded.tokenizer.get_vocab():
        path = reference.model.path
        raise ConfigError(
            f"evaluate.reference: {path} has another vocabulary, so their log-probabilities cannot be compared; {TYPE_ANOTHER}"
        )
    return loaded_reference.model


def find_beta(experiment: Experiment, past: Provenance) -> float | None:
    """Return the scale of the rewards; None if the data have neither pairs nor labels."""
    if experiment.data.columns.chosen is None and experiment.data.columns.label is None:
        return None
    beta = experiment.evaluate.beta or past.rewards.get("beta")
    log.info("Rewards: log-ratios times beta=%g%s", beta or 1.0, "" if beta else " (the model was trained with none)")
    return beta or 1.0


def find_panel(experiment: Experiment, past: Provenance) -> Panel | None:
    """Return the rewards that the model was trained for; None if there are none, or if they cannot be used on these data (logged).

    A manifest is not trusted: its targets follow the same rules as those of a configuration.
    """
    if not past.method_rewards:
        return None
    try:
        if problems := targets.find_target_problems(past.method_rewards, [targets.OWN_PACKAGE, *experiment.extensions], "method.rewards"):
            raise ConfigError(problems)
        return Panel.from_settings(past.method_rewards, experiment)
    except ConfigError as error:
        log.warning("The rewards that the model was trained for are not measured: %s", error)
        return None


def plan_evaluation(experiment: Experiment, reference: Experiment | None, rows: int) -> Result:
    """Show what would be measured (`dry_run=true`)."""
    facts = {
        "stage": experiment.stage.name,
        "model": str(experiment.model.path),
        "reference": str(reference.model.path) if reference else "none",
        "data": f"{experiment.data.path}: {min(rows, experiment.evaluate.limit or rows):,} of {rows:,} rows",
        "device": hardware.resolve_device(experiment.hardware.device),
    }
    summary.show_plan_table(facts, "nothing is measured")
    return Result(status="planned", stage=experiment.stage.name, counts={"held_out_rows": rows}, details={"plan": facts})
