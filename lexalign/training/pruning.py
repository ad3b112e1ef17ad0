"""Stops a run early if other runs of its sweep do better."""

import logging
import math
from pathlib import Path
from typing import Any, Literal, Protocol

from transformers import TrainerCallback

from lexalign.errors import ConfigError, Stopped
from lexalign.training import signals

log = logging.getLogger(__name__)


class StopJudge(Protocol):
    """Decides after each evaluation whether the run continues."""

    @property
    def folder(self) -> Path:
        """The folder of the judged run. A parent trained in the same process is not judged."""

    @property
    def metric(self) -> str:
        """The logged name of the evaluation metric that is compared."""

    @property
    def status(self) -> Literal["paused", "pruned"]:
        """The status of a stopped run."""

    @property
    def why(self) -> str:
        """The reason for a stop."""

    def stops(self, value: float, evaluation: int) -> bool:
        """Whether a run with this value at this evaluation (counted from 1) must stop."""


judge: StopJudge | None = None
"""The judge of this process's run, if there is one."""


def make_callbacks(out_dir: Path) -> list[TrainerCallback]:
    """The callback that stops the run in `out_dir` early, if the run is judged."""
    return [PruneCallback(judge)] if judge is not None and judge.folder.resolve() == out_dir.resolve() else []


class PruneCallback(TrainerCallback):
    """Asks the judge after each evaluation. A stopped run first saves a checkpoint, so that it can be resumed later."""

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
