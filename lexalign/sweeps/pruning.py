"""In a job: report each evaluation to the sweep's study, and stop where the study's pruner says so."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lexalign.checkpoints import signals
from lexalign.errors import Stopped

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What a job is told of its study."""

    folder: Path
    """Of the job's run; its parent's may have to be trained in the same process."""
    study: Path
    """The study's journal."""
    trial: int
    metric: str
    """Number of the trainer's evaluation that is compared, as it is logged."""
    smaller_is_better: bool
    pruner: Any
    """The Optuna pruner; its settings are the sweep's."""

    def begin(self) -> None:
        """Have this process's run watched."""
        global watched
        watched = self


watched: Pruning | None = None
"""Of this process's job, where it may be pruned."""


def callbacks(out_dir: Path) -> list[TrainerCallback]:
    """What stops the run in `out_dir` early, where its sweep prunes."""
    return [Prune(watched)] if watched is not None and watched.folder.resolve() == out_dir.resolve() else []


class Prune(TrainerCallback):
    """Reports after each evaluation; a run that is pruned saves a checkpoint first, so that it can go on in a sweep without a pruner."""

    def __init__(self, pruning: Pruning):
        from lexalign.sweeps import search

        self.pruning = pruning
        self.trial = search.trial(pruning)
        self.evaluations = 0

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any) -> None:
        name = self.pruning.metric
        value = (metrics or {}).get(name)
        if value is None:
            known = ", ".join(sorted(key for key in metrics or {} if key.startswith("eval_")))
            raise KeyError(f"sweep.prune_on={name}: the evaluation has no such number; it has {known}")
        step = state.global_step // args.eval_steps
        self.trial.report(value if math.isfinite(value) else math.inf * (1 if self.pruning.smaller_is_better else -1), step)
        if state.global_step < state.max_steps and self.trial.should_prune():
            log.info("Pruned at step %d of %d: %s %.4g is among the worse", state.global_step, state.max_steps, name, value)
            reason = f"pruned at step {state.global_step} of {state.max_steps}: {name} {value:.4g}"
            signals.ask(Stopped(reason, exit_code=0, status="pruned"))
            control.should_save = True
