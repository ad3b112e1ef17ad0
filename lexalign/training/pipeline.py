"""A training run from rows to artifact, shared by sft and align."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_class

from lexalign.artifacts import fingerprint
from lexalign.artifacts.result import Result
from lexalign.compat import freeze_first_imports
from lexalign.config import hardware
from lexalign.config.schema import Experiment, RewardMethod
from lexalign.data import rows as data_rows
from lexalign.rewards.panel import Panel
from lexalign.training import signals

log = logging.getLogger(__name__)
NAMES = ("before", "after")
Check = Callable[[Any, Experiment, Any], None]
"""Called with the trainer, the experiment, and the trial step (`memory.TriedStep`) or None."""


def run_training(experiment: Experiment, out_dir: Path, tracker: Any, *, before_training: Check | None = None) -> Result:
    """Load and check the rows, load the model, measure it, train it, save it, and measure it again.

    `before_training` is called with the trainer at step 0. It raises an error if the run must not continue. `experiment.resume` names the
    checkpoint to resume from; `lexalign.runs.execute` has checked that it is complete.
    """
    assert experiment.method is not None and experiment.train is not None
    splits = data_rows.load_rows(experiment)  # before torch is imported: bad data are refused within a second
    Panel.from_experiment(experiment)  # a reward that cannot be made is refused here as well
    if experiment.dry_run:
        from lexalign.training import plan

        return plan.show_plan(experiment, splits)

    with freeze_first_imports():
        from lexalign.models.setup import prepare_process

        prepare_process(experiment, rows=len(splits.train))
        from lexalign.distributed import collectives
        from lexalign.evaluation import harness, recording
        from lexalign.evaluation.evaluator import MeasuredReference, Measurement
        from lexalign.evaluation.measure import measure_all
        from lexalign.evaluation.measurement_cache import measure_once
        from lexalign.models.precision import make_autocast
        from lexalign.models.saving import save_model
        from lexalign.training import trainer as _  # noqa: F401  # so that its imports are frozen, too
        from lexalign.training.preflight import check as preflight

        get_method_class(experiment)

    harness.check_tasks(experiment.evaluate)
    loaded, encoder, trainer = prepare_trainer(experiment, splits, out_dir, tracker)
    facts = preflight.run_preflight(
        trainer, experiment, loaded=loaded, splits=splits, encoder=encoder, out_dir=out_dir, check_start=before_training
    )
    if experiment.preflight.mode == "only":
        preflight.show_facts(facts)
        return Result(status="planned", stage=experiment.stage.name, method=experiment.method.name, counts=splits.counts, details=facts)

    evaluator, before, after = None, Measurement(), Measurement()
    if experiment.evaluate.enabled:
        evaluator = make_evaluator(experiment, splits, encoder, trainer)
        log.info("Measuring the model before training on %d held-out rows", len(evaluator.rows))
        key = fingerprint.make_reference_key(experiment, loaded.base, dtype=str(next(trainer.model.parameters()).dtype), layout="measured")
        with make_autocast(experiment):
            before = measure_once(experiment, evaluator, key, lambda: measure_all(evaluator, trainer.model))
    made_of = describe_run(experiment, loaded.base, splits, encoder)
    counts = train_to_end(trainer, experiment, made_of, rows=len(splits.train))
    artifact = out_dir / "artifact"
    save_model(loaded, trainer.model, artifact, made_of)
    result = Result(status="finished", stage=experiment.stage.name, method=experiment.method.name, artifact=str(artifact.resolve()))
    result.counts = {**splits.counts, **counts}
    if evaluator is not None:
        log.info("Measuring the model after training")
        with make_autocast(experiment):
            after = measure_all(evaluator, trainer.model, MeasuredReference(measured=before, borrowed=restore_start_model(trainer, loaded)))
        recording.record_measurements(result, evaluator, before, after, out_dir if collectives.is_main() else None, NAMES)
        set_score(result, experiment.method.score)
    recording.report_measurements(result, tracker, NAMES)
    return result


def prepare_trainer(experiment: Experiment, splits: Any, out_dir: Path, tracker: Any) -> tuple[Any, Any, Any]:
    """The loaded model, its renderer, and the method's trainer at step 0."""
    import torch
    from transformers import PrinterCallback, set_seed

    from lexalign.cache.tokens import TokenCache
    from lexalign.data import lengths
    from lexalign.distributed import collectives, sharding
    from lexalign.models import loading
    from lexalign.models.renderers import check_rendering, make_limit_check, make_renderer
    from lexalign.training import pruning
    from lexalign.training.callbacks import ProgressCallback

    assert experiment.method is not None and experiment.train is not None
    loaded = loading.load_model(experiment)
    shared_belief = getattr(get_method_class(experiment), "shared_belief", False)
    encoder = make_renderer(experiment, loaded.tokenizer, model=loaded.model, shared_belief=shared_belief)
    check_rendering(encoder, splits)
    tokens = TokenCache.of(experiment, encoder)
    lengths.note_control_tokens(splits, loaded.tokenizer)
    max_length, drawn_tokens = experiment.train.max_length, lengths.count_drawn_tokens(experiment)
    limit_check = make_limit_check(loaded.model, encoder, max_length=max_length, drawn=drawn_tokens)
    lengths.fit_lengths(splits, tokens.lengths, max_length=max_length, drawn=drawn_tokens, look=limit_check)
    device = torch.device(hardware.resolve_device(experiment.hardware.device))
    if experiment.adapter is not None and experiment.adapter.bits is None:
        loaded.model.to(device)

    set_seed(experiment.seed)
    trainer = make_trainer(
        experiment,
        loaded=loaded,
        splits=splits,
        renderer=encoder,
        tokens=tokens,
        out_dir=out_dir,
        callbacks=[
            ProgressCallback(
                out_dir if collectives.is_main() else None, tracker, title=f"{experiment.stage.name} {experiment.method.name}"
            ),
            *pruning.make_callbacks(out_dir),
            sharding.ShardingCheck(experiment.hardware),
        ],
    )
    sharding.check_sharding(trainer.accelerator, experiment)
    sharding.enter_zero3(trainer.args, yes=False)
    trainer.remove_callback(PrinterCallback)  # ProgressCallback shows the numbers
    return loaded, encoder, trainer


def make_trainer(experiment: Experiment, **parts: Any) -> Any:
    """The trainer of `experiment.method`: `MethodTrainer` with the method as its objective, or the method's own trainer class."""
    from lexalign.training.objective import Objective

    method_class = get_method_class(experiment)
    if not issubclass(method_class, Objective):
        return method_class(experiment=experiment, **parts)
    from lexalign.training.trainer import MethodTrainer

    return MethodTrainer(objective=method_class(experiment.method, parts["renderer"]), experiment=experiment, **parts)


def train_to_end(trainer: Any, experiment: Experiment, made_of: dict[str, Any], *, rows: int) -> dict[str, Any]:
    """Train to the end, from a checkpoint if there is one. Returns the counts for the result."""
    from transformers import set_seed

    from lexalign.training import memory

    assert experiment.train is not None
    trainable = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    assert trainable, "nothing would be trained"
    log.info("Training %s of %s parameters on %d rows", f"{trainable:,}", f"{trainer.model.num_parameters():,}", rows)
    trainer.checkpointing.watch(experiment.train, {**made_of, "shared_out": hardware.get_sharding(experiment.hardware)})
    checkpoint = None if experiment.resume in ("auto", "never") else experiment.resume
    if checkpoint:
        log.info("Going on from %s", checkpoint)
    set_seed(experiment.seed)  # so that earlier checks do not change the random numbers of training
    with signals.defer_signals(experiment.train.stop_after), memory.explain_out_of_memory(trainer, experiment):
        trainer.train(resume_from_checkpoint=checkpoint)
    return {"trainable_parameters": trainable, "steps": trainer.state.global_step, **getattr(trainer, "counts", {})}


def restore_start_model(trainer: Any, loaded: Any) -> Any:
    """A context manager that gives the start model of the run; None if training changed that model itself.

    It is a separate copy, or the policy with its adapter switched off, or the policy with the frozen copy of its start adapter.
    """
    from peft import PeftModel

    from lexalign.models.adapters import COPY, use_start_model

    model = trainer.model
    start_model = getattr(getattr(trainer, "reference", None), "model", None) or getattr(trainer, "ref_model", None)
    if start_model is not None:
        return lambda: contextlib.nullcontext(start_model)
    has_copy = COPY in getattr(model, "peft_config", {})
    if not isinstance(model, PeftModel) or (not has_copy and isinstance(loaded.model, PeftModel)):
        log.info("KL to the model before training: not measured, training changed that model itself; stage=evaluate loads it again")
        return None
    return lambda: use_start_model(model)


def make_evaluator(experiment: Experiment, splits: Any, encoder: Any, trainer: Any) -> Any:
    """The evaluator of the held-out rows. It is the same before and after training."""
    from lexalign.evaluation.evaluator import Evaluator

    assert experiment.train is not None
    return Evaluator(
        encoder=encoder,
        rows=splits.held_out,
        known=splits.train + splits.held_out,
        train_rows=splits.train,
        settings=experiment.evaluate,
        max_length=experiment.train.max_length,
        panel=getattr(trainer, "panel", None),
        **(describe_rewards(experiment) or {}),
    )


def describe_rewards(experiment: Experiment) -> dict[str, Any] | None:
    """How the method's implicit rewards are measured. A method without a beta measures log-ratios, in nats.

    None for sft, and for methods that train on the model's own answers: these have named rewards.
    """
    if experiment.stage.name != "align" or isinstance(experiment.method, RewardMethod):
        return None
    return {"beta": getattr(experiment.method, "beta", 1.0), "shared_belief": getattr(get_method_class(experiment), "shared_belief", True)}


def describe_run(experiment: Experiment, base: dict[str, Any], splits: Any, encoder: Any) -> dict[str, Any]:
    """The inputs of the run, for the manifests of the artifact and of each checkpoint."""
    from lexalign.models.renderers import record_rendering

    made_of = fingerprint.describe_inputs(experiment)
    return {
        "seed": experiment.seed,
        "model": {"path": experiment.model.path, **made_of["model"], "loaded": base},
        "data": {"path": experiment.data.path, **made_of["data"]},
        "rows_sha256": fingerprint.digest_rows(splits.train),
        "counts": splits.counts,
        "rewards": describe_rewards(experiment),
        "rendering": record_rendering(encoder),
        "settings": made_of["settings"],
        "surroundings": fingerprint.describe_environment(experiment),
        "git_diff": fingerprint.get_git_diff(),
    }


def get_method_class(experiment: Experiment) -> Any:
    """The class named by `method._target_`: an `Objective` or a trainer."""
    assert experiment.method is not None
    return get_class(experiment.method.target)


def set_score(result: Result, names: Sequence[str]) -> None:
    """Set the result's score to the first of `names` that was measured."""
    from lexalign.evaluation.metrics import DIRECTIONS

    after = result.metrics["after"]
    name = next((name for name in names if name in after), None)
    if name is not None:
        result.score, result.score_name, result.score_direction = after[name], name, DIRECTIONS[name]  # type: ignore[assignment]
