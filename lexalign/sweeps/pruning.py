"""In a job: what stops it before its end, for the sake of its sweep."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lexalign.evaluation.metrics import smaller_is_better

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class JobJudge:
    """What a job is told of what stops it; each is a `lexalign.training.pruning.StopJudge`."""

    folder: Path
    metric: str

    def install(self) -> None:
        """Have this process's run judged."""
        from lexalign.training import pruning

        pruning.judge = self  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class HalvingPause(JobJudge):
    """By its round: at one evaluation, whatever it came to."""

    evaluation: int
    """Number of the evaluation that ends the round, from 1."""
    status = "paused"
    why = "a round of the sweep ends here, and only its best points go on"

    def stops(self, value: float, evaluation: int) -> bool:
        return evaluation >= self.evaluation


@dataclass(frozen=True, kw_only=True)
class OptunaPruning(JobJudge):
    """By Optuna: each evaluation is reported to the sweep's study, and its pruner asked."""

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
        """Optuna compares in the study's direction, so a value of the other direction is turned round."""
        wants_less = self.trial.study.direction.name == "MINIMIZE"
        self.trial.report(value if wants_less == smaller_is_better(self.metric) else -value, evaluation)
        return self.trial.should_prune()
