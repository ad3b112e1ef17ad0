"""Stopping a run early because others of its sweep do better."""

import logging
import math
from pathlib import Path
from typing import Any, Literal, Protocol

from transformers import TrainerCallback

from lexalign.errors import ConfigError, Stopped
from lexalign.training import signals

log = logging.getLogger(__name__)


class StopJudge(Protocol):
    """Who tells, of each evaluation, whether the run goes on."""

    @property
    def folder(self) -> Path:
        """Of the run that is judged; its parent's may have to be trained in the same process."""

    @property
    def metric(self) -> str:
        """Number of the trainer's evaluation that is compared, as it is logged."""

    @property
    def status(self) -> Literal["paused", "pruned"]:
        """Of a run that it stops."""

    @property
    def why(self) -> str:
        """Why it stops one."""

    def stops(self, value: float, evaluation: int) -> bool:
        """Whether a run with this value at its evaluation of this number (from 1) is to stop."""


judge: StopJudge | None = None
"""Of this process's run, where there is one."""


def make_callbacks(out_dir: Path) -> list[TrainerCallback]:
    """What stops the run in `out_dir` early, where it is judged."""
    return [PruneCallback(judge)] if judge is not None and judge.folder.resolve() == out_dir.resolve() else []


class PruneCallback(TrainerCallback):
    """Asks after each evaluation; a run that is stopped saves a checkpoint first, so that it can go on: in the next round, or unpruned."""

    def __init__(self, judge: StopJudge):
        self.judge = judge

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any) -> None:
        name, numbers = self.judge.metric, metrics or {}
        if name not in numbers:
            names = ", ".join(sorted(key for key in numbers if key.startswith("eval_")))
            raise ConfigError(f"sweep.prune_on={name}: the evaluation has no such number; name one of {names}")
        value = numbers[name] if math.isfinite(numbers[name]) else math.nan
        if self.judge.stops(value, state.global_step // args.eval_steps) and state.global_step < state.max_steps:
            reason = f"{self.judge.status} at step {state.global_step} of {state.max_steps}: {name} {value:.4g}"
            log.info("Stopping, because %s: %s", self.judge.why, reason)
            signals.request_stop(Stopped(reason, exit_code=0, status=self.judge.status))
            control.should_save = True
