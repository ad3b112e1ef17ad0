"""A training run from rows to artifact: the straight line that sft and align share."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_class

from lexalign import hardware, identity
from lexalign.checkpoints import signals
from lexalign.data import rows as data_rows
from lexalign.importing import first_imports
from lexalign.results import Result
from lexalign.rewards.panel import Panel
from lexalign.schema import Experiment, RewardMethod

log = logging.getLogger(__name__)
NAMES = ("before", "after")
Check = Callable[[Any, Experiment, Any], None]
"""Given the trainer, the experiment, and the step that was tried (`memory.Tried`), if one was."""


def run(experiment: Experiment, out_dir: Path, tracker: Any, *, before_training: Check | None = None) -> Result:
    """Load and check the rows, load the model, measure, train, measure again, save.

    `before_training` is called with the trainer at step 0 and raises where the run must not go on. `experiment.resume` names the checkpoint
    to go on from, found whole by `lexalign.runs`.
    """
    assert experiment.method is not None and experiment.train is not None
    splits = data_rows.load(experiment)  # before torch: bad data are refused in a second
    Panel.of(experiment)  # a reward that cannot be made, too
    if experiment.dry_run:
        from lexalign import plan

        return plan.show(experiment, splits)

    with first_imports():
        from lexalign.startup import begin

        begin(experiment, rows=len(splits.train))
        from lexalign import measuring, models
        from lexalign.evaluation import harness
        from lexalign.evaluation.measure import measure
        from lexalign.evaluation.yardstick import Measured, Reference
        from lexalign.preflight import check as preflight
        from lexalign.ranks import group

        trainer_class(experiment)

    harness.check(experiment.evaluate)
    loaded, encoder, trainer = prepared(experiment, splits, out_dir, tracker)
    found = preflight.run(trainer, experiment, loaded=loaded, splits=splits, encoder=encoder, out_dir=out_dir, check_start=before_training)
    if experiment.preflight.mode == "only":
        preflight.show(found)
        return Result(status="planned", stage=experiment.stage.name, method=experiment.method.name, counts=splits.counts, details=found)

    yardstick, before, after = None, Measured(), Measured()
    if experiment.evaluate.enabled:
        yardstick = yardstick_for(experiment, splits, encoder, trainer)
        log.info("Measuring the model before training on %d held-out rows", len(yardstick.rows))
        with models.arithmetic(experiment):
            before = measure(yardstick, trainer.model)
    made_of = facts(experiment, loaded.base, splits)
    told = train(trainer, experiment, made_of, rows=len(splits.train))
    artifact = out_dir / "artifact"
    models.save(loaded, trainer.model, artifact, made_of)
    result = Result(status="finished", stage=experiment.stage.name, method=experiment.method.name, artifact=str(artifact.resolve()))
    result.counts = {**splits.counts, **told}
    if yardstick is not None:
        log.info("Measuring the model after training")
        with models.arithmetic(experiment):
            after = measure(yardstick, trainer.model, Reference(measured=before, borrowed=started_from(trainer, loaded)))
        measuring.keep(result, yardstick, before, after, out_dir if group.first() else None, NAMES)
        score(result, experiment.method.score)
    measuring.tell(result, tracker, NAMES)
    return result


def prepared(experiment: Experiment, splits: Any, out_dir: Path, tracker: Any) -> tuple[Any, Any, Any]:
    """The model as it was loaded, what makes its tokens, and the method's trainer at step 0."""
    import torch
    from transformers import PrinterCallback, set_seed

    from lexalign import models
    from lexalign.checkpoints.saving import durable
    from lexalign.data import lengths
    from lexalign.data.tokens import Encoder
    from lexalign.ranks import group, sharding
    from lexalign.stores.tokens import TokenStore
    from lexalign.trainers import pruning
    from lexalign.trainers.callbacks import Watch

    assert experiment.method is not None and experiment.train is not None
    loaded = models.load(experiment)
    encoder = Encoder(loaded.tokenizer, experiment.data)
    tokens = TokenStore.of(experiment, encoder)
    lengths.note_control_tokens(splits, loaded.tokenizer)
    lengths.fit(splits, tokens.lengths, max_length=experiment.train.max_length, drawn=lengths.drawn(experiment))
    device = torch.device(hardware.resolve_device(experiment.hardware.device))
    if experiment.adapter is not None and experiment.adapter.bits is None:
        loaded.model.to(device)

    set_seed(experiment.seed)
    trainer = durable(trainer_class(experiment))(
        experiment=experiment,
        loaded=loaded,
        splits=splits,
        encoder=encoder,
        tokens=tokens,
        out_dir=out_dir,
        callbacks=[
            Watch(out_dir if group.first() else None, tracker, title=f"{experiment.stage.name} {experiment.method.name}"),
            *pruning.callbacks(out_dir),
            sharding.InParts(experiment.hardware),
        ],
    )
    sharding.check(trainer.accelerator, experiment)
    sharding.begun(trainer.args, yes=False)
    trainer.remove_callback(PrinterCallback)  # Watch shows the numbers
    return loaded, encoder, trainer


def train(trainer: Any, experiment: Experiment, made_of: dict[str, Any], *, rows: int) -> dict[str, Any]:
    """Train to the end, from a checkpoint where there is one; the counts to tell of it."""
    from transformers import set_seed

    from lexalign import memory

    assert experiment.train is not None
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert trainable, "nothing would be trained"
    log.info("Training %s of %s parameters on %d rows", f"{trainable:,}", f"{trainer.model.num_parameters():,}", rows)
    trainer.watch_over(experiment.train, {**made_of, "shared_out": hardware.shared_out(experiment.hardware)})
    checkpoint = None if experiment.resume in ("auto", "never") else experiment.resume
    if checkpoint:
        log.info("Going on from %s", checkpoint)
    set_seed(experiment.seed)  # what was looked at before leaves no trace in what is drawn
    with signals.while_training(experiment.train.stop_after), memory.explained(trainer, experiment):
        trainer.train(resume_from_checkpoint=checkpoint)
    return {"trainable_parameters": trainable, "steps": trainer.state.global_step, **getattr(trainer, "counts", {})}


def started_from(trainer: Any, loaded: Any) -> Any:
    """Gives the model the run started from, while a `with` block lasts: the policy with its adapter switched off, or with TRL's copy of an
    adapter that was trained on; None where training changed that model itself."""
    from peft import PeftModel
    from trl.trainer.utils import use_adapter

    model = trainer.model
    other = getattr(trainer, "ref_model", None)
    if other is not None:
        return lambda: contextlib.nullcontext(other)
    copy = "ref" if "ref" in getattr(model, "peft_config", {}) else None
    if not isinstance(model, PeftModel) or (copy is None and isinstance(loaded.model, PeftModel)):
        log.info("KL to the model before training: not measured, training changed that model itself; stage=evaluate loads it again")
        return None

    @contextlib.contextmanager
    def switched() -> Iterator[Any]:
        with use_adapter(model, copy):
            yield model

    return switched


def yardstick_for(experiment: Experiment, splits: Any, encoder: Any, trainer: Any) -> Any:
    """What measures the model on the held-out rows, the same way before and after."""
    from lexalign.evaluation.yardstick import Yardstick

    assert experiment.train is not None
    return Yardstick(
        encoder=encoder,
        rows=splits.held_out,
        known=splits.train + splits.held_out,
        settings=experiment.evaluate,
        max_length=experiment.train.max_length,
        panel=getattr(trainer, "panel", None),
        **(rewards(experiment) or {}),
    )


def rewards(experiment: Experiment) -> dict[str, Any] | None:
    """How the method's implicit rewards are measured (without a beta: as log-ratios, in nats); None where there are none: sft, and answers
    of the model's own, which have rewards by name."""
    if experiment.stage.name != "align" or isinstance(experiment.method, RewardMethod):
        return None
    return {"beta": getattr(experiment.method, "beta", 1.0), "shared_belief": getattr(trainer_class(experiment), "shared_belief", True)}


def facts(experiment: Experiment, base: dict[str, Any], splits: Any) -> dict[str, Any]:
    """What the artifact, and each checkpoint, is made of, for its manifest."""
    made_of = identity.made_of(experiment)
    return {
        "seed": experiment.seed,
        "model": {"path": experiment.model.path, **made_of["model"], "loaded": base},
        "data": {"path": experiment.data.path, **made_of["data"]},
        "rows_sha256": identity.rows_digest(splits.train),
        "counts": splits.counts,
        "rewards": rewards(experiment),
        "settings": made_of["settings"],
        "surroundings": identity.surroundings(experiment),
        "git_diff": identity.git_diff(),
    }


def trainer_class(experiment: Experiment) -> Any:
    """The class that `method._target_` names."""
    assert experiment.method is not None
    return get_class(experiment.method.target)


def score(result: Result, names: Sequence[str]) -> None:
    """The result's score is the first of `names` that was measured."""
    from lexalign.evaluation.metrics import DIRECTIONS

    after = result.metrics["after"]
    name = next((name for name in names if name in after), None)
    if name is not None:
        result.score, result.score_name, result.score_direction = after[name], name, DIRECTIONS[name]  # type: ignore[assignment]
