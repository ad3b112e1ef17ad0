"""In a job's process: what stops the job early for its sweep."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lexalign.evaluation.metrics import smaller_is_better

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class JobJudge:
    """What decides that a job stops early; each is a `lexalign.training.pruning.StopJudge`."""

    folder: Path
    metric: str

    def install(self) -> None:
        """Use this judge for the run of this process."""
        from lexalign.training import pruning

        pruning.judge = self  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class HalvingPause(JobJudge):
    """Stops at the evaluation that ends the round, whatever its value."""

    evaluation: int
    """Number of the evaluation that ends the round, from 1."""
    status = "paused"
    why = "a round of the sweep ends here, and only its best points go on"

    def stops(self, value: float, evaluation: int) -> bool:
        return evaluation >= self.evaluation


@dataclass(frozen=True, kw_only=True)
class OptunaPruning(JobJudge):
    """Stops when Optuna's pruner says so. Each evaluation is reported to the sweep's study."""

    study: Path
    """The study's journal."""
    study_name: str
    number: int
    """Of the job's trial."""
    pruner: Any
    """The Optuna pruner; its settings are the sweep's."""
    status = "pruned"
    why = "others of the sweep do better"

    @cached_property
    def trial(self) -> "optuna.Trial":
        """The job's trial, as this process sees it."""
        import optuna

        from lexalign.sweeps import search

        study = optuna.load_study(study_name=self.study_name, storage=search.open_storage(self.study), pruner=self.pruner)
        frozen_trial = next(frozen for frozen in study.get_trials(deepcopy=False) if frozen.number == self.number)
        return optuna.Trial(study, frozen_trial._trial_id)

    def stops(self, value: float, evaluation: int) -> bool:
        """Report the evaluation and ask the pruner. A value whose direction is not the study's changes its sign."""
        wants_less = self.trial.study.direction.name == "MINIMIZE"
        self.trial.report(value if wants_less == smaller_is_better(self.metric) else -value, evaluation)
        return self.trial.should_prune()
