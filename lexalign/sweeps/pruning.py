"""In a job: report each evaluation to the sweep's study, and ask its pruner."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection

from lexalign.sweeps import search


@dataclass(frozen=True)
class Pruning:
    """What a job is told of its study; a `lexalign.trainers.pruning.Judge`."""

    folder: Path
    metric: str
    study: Path
    """The study's journal."""
    number: int
    """Of the job's trial."""
    pruner: Any
    """The Optuna pruner; its settings are the sweep's."""

    def begin(self) -> None:
        """Have this process's run judged."""
        from lexalign.trainers import pruning

        pruning.judge = self

    @cached_property
    def trial(self) -> optuna.Trial:
        """The job's trial, as this process sees it."""
        study = optuna.load_study(study_name=search.NAME, storage=search.storage(self.study), pruner=self.pruner)
        found = next(frozen for frozen in study.get_trials(deepcopy=False) if frozen.number == self.number)
        return optuna.Trial(study, found._trial_id)

    def too_bad(self, value: float, evaluation: int) -> bool:
        """Optuna compares in the study's direction, so a value of the other direction is turned round."""
        wants_less = self.trial.study.direction == StudyDirection.MINIMIZE
        self.trial.report(value if wants_less == search.smaller_is_better(self.metric) else -value, evaluation)
        return self.trial.should_prune()
