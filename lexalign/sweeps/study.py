"""A plan's jobs as trials of an Optuna study: drawn by a sampler or listed, and stopped early by a pruner."""

import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from lexalign.errors import ConfigError
from lexalign.evaluation.metrics import DIRECTIONS
from lexalign.sweeps import search
from lexalign.sweeps.display import Display
from lexalign.sweeps.grid import Grid
from lexalign.sweeps.ledger import Job
from lexalign.sweeps.plan import DONE, Plan
from lexalign.sweeps.points import Axis
from lexalign.sweeps.pruning import OptunaPruning


class StudySource(Grid):
    """A source whose points are trials. A trial is one point, with all its seeds where a sampler draws it."""

    def __init__(self, plan: Plan, display: Display, *, seed: int, score: Sequence[str]):
        super().__init__(plan, display)
        self.is_listed = plan.settings.sampler == "grid"
        self.axes = (*plan.request.axes, *(plan.request.list_seed_axes() if self.is_listed else ()))
        self.space = search.make_space(self.axes)
        self.objectives = plan.settings.objectives or [score[0]]
        self.file = plan.ledger.folder / search.FILE
        self.study, notes = search.open_study(self.file, plan.settings, self.objectives, self.space, seed)
        for note in notes:
            display.say(note)
        self.trials: dict[int, tuple[optuna.Trial, list[Job]]] = {}
        """Unfinished trials with their jobs, by number."""
        self.points_left: list[dict[str, Any]] = []
        """Values of listed points that are still to be queued."""
        self.said_drops: set[str] = set()
        """Settings of which it was said that some points go without."""
        self.draws_left = 0
        """Points still to be drawn."""
        self.resume_trials(seed)

    def resume_trials(self, seed: int) -> None:
        """Continue the trials that an earlier call left unfinished, and list the points to come."""
        known_params = []
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        trials = []
        for frozen in search.list_unfinished(self.study):
            if set(frozen.params) == set(self.space):
                trials.append(optuna.Trial(self.study, frozen._trial_id))
            else:  # an earlier call ended between making the trial and drawing its values
                self.study.tell(frozen.number, state=TrialState.FAIL)
        for trial in [*trials, *(self.study.ask(self.space) for _ in waiting)]:
            known_params.append(trial.params)
            self.queue_trial(trial, trial.params)
        if self.is_listed:
            choices = [dict(option.split("=", 1) for option in choice) for choice in product(*(axis.options for axis in self.axes))]
            # Shuffled: if each point were better than those before it, the pruner would stop none.
            random.Random(seed).shuffle(choices)
            jobs = self.plan.add(self.make_overrides(values) for values in choices)
            self.points_left = [v for v, job in zip(choices, jobs, strict=True) if self.plan.must_run(job) and v not in known_params]
            return
        trials_left = self.plan.settings.trials
        assert trials_left is not None
        for frozen in self.study.get_trials(deepcopy=False):
            if set(frozen.params) != set(self.space):
                continue
            if frozen.state == TrialState.FAIL and frozen.params not in known_params and self.can_run_again(frozen.params):
                self.points_left.append(frozen.params)
            if frozen.params not in known_params:  # a trial that failed and ran again is one point
                known_params.append(frozen.params)
        self.draws_left = max(0, trials_left - len(known_params))

    def can_run_again(self, params: dict[str, Any]) -> bool:
        """Whether a failed trial has a job that this call may run again."""
        try:
            return any(self.plan.must_run(job) for job in self.list_jobs(params))
        except ConfigError:  # the point is not valid
            return False

    def make_overrides(self, params: dict[str, Any]) -> list[str]:
        """What one would type for a trial's values."""
        return [*self.plan.request.fixed_overrides, *(f"{key}={params[key]}" for key in self.space)]

    def list_jobs(self, params: dict[str, Any]) -> list[Job]:
        """The jobs of a trial: one for each seed where a sampler draws the points."""
        points = [self.make_overrides(params)]
        seeds: Sequence[Axis] = () if self.is_listed else self.plan.request.list_seed_axes()
        for axis in seeds:
            points = [[*point, option] for point in points for option in axis.options]
        jobs = self.plan.add(points)
        for line in self.plan.drops.describe():
            if (key := line.partition(":")[0]) not in self.said_drops:
                self.said_drops.add(key)
                self.display.say(f"{key}: left out of points that do not read it ({self.plan.drops.reasons[key]})")
        return jobs

    def take_job(self) -> Job | None:
        while True:
            job = super().take_job()
            if job is not None or self.queue or not (self.points_left or self.draws_left):
                return job
            if self.points_left:
                self.study.enqueue_trial(self.points_left.pop(0))
            else:
                self.draws_left -= 1
            trial = self.study.ask(self.space)
            try:
                self.queue_trial(trial, trial.params)
            except ConfigError as error:  # each value is valid, but not this combination
                self.study.tell(trial, state=TrialState.FAIL)
                self.display.say(f"trial {trial.number} is left out: {error}", "bold")

    def queue_trial(self, trial: optuna.Trial, params: dict[str, Any]) -> None:
        """Add a trial's jobs to the queue; where all are done already, report its outcome to the study."""
        jobs = self.list_jobs(params)
        for job in jobs:
            if self.plan.settings.pruner != "none":
                self.pruning[job.key] = OptunaPruning(
                    folder=Path(job.folder),
                    study=self.file,
                    study_name=self.study.study_name,
                    number=trial.number,
                    metric=self.plan.settings.prune_on,
                    pruner=search.make_pruner(self.plan.settings),
                )
        self.trials[trial.number] = (trial, jobs)
        self.enqueue(jobs)
        self.tell_outcome(trial.number)

    def note_end(self, job: Job, exit_code: int) -> None:
        super().note_end(job, exit_code)
        for number, (_, jobs) in list(self.trials.items()):
            if job in jobs or job.number is None:
                self.tell_outcome(number)

    def tell_outcome(self, number: int) -> None:
        """Report a trial's outcome to the study once all its jobs have ended. An interrupted trial stays unfinished."""
        trial, jobs = self.trials[number]
        states = {job.state for job in jobs}
        if states & {"waiting", "running", "interrupted", "planned"}:
            return
        del self.trials[number]
        if states <= set(DONE) and "pruned" in states:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif states == {"finished"}:
            self.study.tell(trial, self.average_objectives(jobs))
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def average_objectives(self, jobs: Sequence[Job]) -> list[float]:
        """The objectives, each the mean over the seeds."""
        means = []
        for objective in self.objectives:
            if not self.plan.settings.objectives:
                values = [self.get_score(job, objective) for job in jobs]
            elif any(objective not in job.metrics for job in jobs):
                measured_names = ", ".join(jobs[0].metrics)
                raise ConfigError(f"sweep.objectives: {objective} was not measured in job {jobs[0].number}; it has {measured_names}")
            else:
                values = [job.metrics[objective] for job in jobs]
            means.append(sum(values) / len(values))
        return means

    def get_score(self, job: Job, first: str) -> float:
        """Return a job's score, with its sign changed where the study was made with a metric of the other direction."""
        if job.score is None:
            raise ConfigError(f"job {job.number}: has no score to search by; name what to search by, as in sweep.objectives=[perplexity]")
        return job.score if job.score_direction == DIRECTIONS[first] else -job.score
