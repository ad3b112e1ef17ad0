"""`stage=sft` and `stage=align`: train a model. At step 0 align checks that the reference is the model that the run starts from."""

import logging
from pathlib import Path
from typing import Any

from lexalign.artifacts.result import Result
from lexalign.config.schema import Experiment
from lexalign.errors import ReferenceError
from lexalign.training import pipeline

log = logging.getLogger(__name__)
MARGIN_TOLERANCE = {"fp32": 1e-3, "low": 0.05}


def run(experiment: Experiment, out_dir: Path, tracker: Any) -> Result:
    """Train the model. Raises ReferenceError at step 0 if policy and reference differ."""
    check = check_reference if experiment.stage.name == "align" else None
    return pipeline.run_training(experiment, out_dir, tracker, before_training=check)


def check_reference(trainer: Any, experiment: Experiment, trial_step: Any = None) -> None:
    """Check that policy and reference are the same model at step 0. Raises ReferenceError if they are not.

    The reward margin must then be 0, and the loss the start loss of the method (ln 2 for the sigmoid loss). Both come from `trial_step`
    (`memory.TriedStep`) if there was one without dropout. Otherwise they are measured on the first rows.
    """
    from lexalign.fast_path.exactness import find_dropout

    tolerance = MARGIN_TOLERANCE["low" if trainer.args.bf16 or trainer.args.fp16 else "fp32"]
    explanation = "the reference is not the model this run starts from, so every reward would be measured from the wrong place"
    if trainer.has_reference and getattr(trainer, "generates", False):
        difference = trainer.reference_gap()
        log.info("Reference check at step 0: log-probabilities at most %.2e from the reference's (wanted 0 ± %g)", difference, tolerance)
        if not difference <= tolerance:
            raise ReferenceError(f"step 0: a token's log-probability is {difference:.4g} from the reference's instead of 0: {explanation}")
        return
    if not trainer.has_reference:
        log.info("No reference to check at step 0: the loss of this method measures from none")
        return
    loss, numbers = (
        measure_first_rows(trainer) if trial_step is None or find_dropout(trainer.model) else (trial_step.loss, trial_step.noted)
    )
    loss -= numbers.get("loss/router", 0.0)  # the loss that balances experts is not part of the method's loss
    # If all unpaired rows have the same label, there is no margin, only a reward. It must be 0, too.
    margin = next(numbers[name] for name in ("rewards/margins", "rewards/chosen", "rewards/rejected") if name in numbers)
    log.info("Reference check at step 0: reward margin %.2e (wanted 0 ± %g), loss %.6f", margin, tolerance, loss)
    if not abs(margin) <= tolerance:
        raise ReferenceError(f"step 0: the reward margin is {margin:.4g} instead of 0 (± {tolerance:g}): {explanation}")
    start_loss = trainer.objective.start_loss
    if start_loss is not None and not abs(loss - start_loss) <= tolerance:
        raise ReferenceError(f"step 0: the loss is {loss:.6g} instead of {start_loss:.6g} (± {tolerance:g}): {explanation}")


def measure_first_rows(trainer: Any) -> tuple[float, dict[str, float]]:
    """Return the loss of the first rows in evaluation mode, and the numbers that the trainer records for them, by name."""
    import torch

    from lexalign.models.precision import make_autocast

    first_rows = list(range(min(len(trainer.train_dataset), trainer.args.per_device_train_batch_size)))
    trainer.model.eval()
    with torch.no_grad(), trainer.trial() as windows, make_autocast(trainer.experiment):
        loss = float(trainer.compute_loss(trainer.model, trainer.make_batch(trainer.train_dataset, first_rows)))
    trainer.model.train()
    return loss, windows["eval"].means()
