"""Successive halving in rounds: all points train a little, the best of them go on for longer, and so forth.

Jamieson and Talwalkar 2016 (arXiv 1502.07943), section 3. A round ends when all its points have reached its end, so neither
the order of the jobs nor their number at a time has any effect; `sweep.pruner=asha` does not wait. A point goes on from its checkpoint.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lexalign.artifacts.result import read_result, write_result
from lexalign.evaluation.metrics import mean, smaller_is_better
from lexalign.sweeps.display import Display
from lexalign.sweeps.grid import Grid
from lexalign.sweeps.ledger import Job
from lexalign.sweeps.plan import Plan
from lexalign.sweeps.pruning import HalvingPause
from lexalign.sweeps.report.folders import read_log

Point = tuple[Job, ...]
"""Jobs that differ in the seed only: they go on together, or not at all."""


class HalvingRounds(Grid):
    """The points of a grid, round by round. Only what the runs logged decides which points go on, so a sweep that was killed, or that got
    more points, comes to the same result."""

    def __init__(self, plan: Plan, display: Display, jobs: Sequence[Job]):
        super().__init__(plan, display)
        together: dict[tuple[tuple[str, str], ...], dict[str, Job]] = {}
        for job in jobs:
            name = tuple(item for item in job.values.items() if item[0] != "seed" or plan.request.seeds is None)
            together.setdefault(name, {})[job.key] = job
        self.rounds = self.run_rounds([tuple(point.values()) for point in together.values()])

    def take_job(self) -> Job | None:
        job = super().take_job()
        while job is None and not self.queue and not self.at_work and next(self.rounds, False):
            job = super().take_job()
        return job

    def run_rounds(self, points: list[Point]) -> Iterator[bool]:
        """Add the jobs of one round after the other to the queue. The next round begins when all jobs of the last one have ended."""
        evaluation = self.plan.settings.prune_after
        while points:
            last = len(points) == 1
            for job in (job for point in points for job in point if last or self.read_evaluation(job, evaluation) is None):
                self.pruning[job.key] = None if last else HalvingPause(folder=Path(job.folder), metric=self.metric, evaluation=evaluation)
                if job.state == "pruned":  # it was pruned among other points than there are now
                    job.state = "paused"
                self.enqueue([job])
            if self.queue:
                yield True
            if last:
                return
            points = self.select_survivors(points, evaluation)
            evaluation *= self.plan.settings.reduction

    @property
    def metric(self) -> str:
        return self.plan.settings.prune_on

    def read_evaluation(self, job: Job, evaluation: int) -> float | None:
        """Return the value of a job's evaluation, with a sign such that less is better; None where the job did not reach it."""
        log_lines = [line for line in read_log(Path(job.folder)) if self.metric in line or self.metric in line.get("not_finite", ())]
        if len(log_lines) < evaluation:
            return None
        value = log_lines[evaluation - 1].get(self.metric, math.inf)
        return value if value == math.inf or smaller_is_better(self.metric) else -value

    def select_survivors(self, points: Sequence[Point], evaluation: int) -> list[Point]:
        """The best points, by their means over the seeds; the others are pruned.

        A point of which a job failed is not judged, nor is one that was finished before this evaluation.
        """
        scores = []
        for point in points:
            values = [value for job in point if (value := self.read_evaluation(job, evaluation)) is not None]
            if len(values) == len(point):
                scores.append((mean(values), point))
        ranked = [point for _, point in sorted(scores, key=lambda pair: pair[0])]
        count = max(1, len(ranked) // self.plan.settings.reduction)
        for place, point in enumerate(ranked[count:], count + 1):
            for job in point:
                self.mark_pruned(job, f"{place} of {len(ranked)}")
        self.plan.ledger.write_jobs(job for point in ranked for job in point)
        if any(job.state != "finished" for point in ranked[:count] for job in point):
            self.display.say(f"evaluation {evaluation}: {count} of {len(ranked)} points go on")
        return ranked[:count]

    def mark_pruned(self, job: Job, place: str) -> None:
        """Mark a job as pruned, in the ledger and in its own folder."""
        if job.state != "paused":
            return
        job.state, job.reason = "pruned", f"{job.reason}, {place}"
        result = read_result(Path(job.folder))
        if result is not None and result.status == "paused":
            write_result(Path(job.folder), replace(result, status="pruned", error=f"Stopped: pruned {job.reason}"))
