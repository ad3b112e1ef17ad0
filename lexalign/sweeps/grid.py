"""The points of a plan as a queue of jobs. A parent runs once, before the jobs that start from it."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lexalign.config import hardware
from lexalign.config.context import RunContext
from lexalign.errors import Stopped
from lexalign.sweeps import outcomes, recovery
from lexalign.sweeps.display import Display, name_job
from lexalign.sweeps.job import OUTPUT, Task
from lexalign.sweeps.ledger import Job
from lexalign.sweeps.plan import Plan, recall_parent
from lexalign.sweeps.slots import Slot
from lexalign.training import signals

BEGAN = time.time()
CHANGED = "its model or its data changed since the sweep was planned; type the command again, which plans anew"
"""Why a job is not run, or its result not taken."""


class Grid:
    """A `lexalign.sweeps.processes.JobSource` of a plan's jobs that must run, in the plan's order."""

    def __init__(self, plan: Plan, display: Display):
        self.plan = plan
        self.display = display
        self.queue: dict[str, Job] = {}
        self.at_work: dict[str, Job] = {}
        self.pruning: dict[str, Any] = {}
        """What a job's process needs to stop it early, by key."""
        self.attempts: dict[str, outcomes.Attempt] = {}
        """The processes at work, by key."""

    def enqueue(self, jobs: Sequence[Job]) -> None:
        """Add jobs to the queue, each after its parent."""
        for job in jobs:
            if not self.plan.must_run(job) or job.key in self.queue or job.key in self.at_work:
                continue
            parent = self.plan.jobs[job.parent] if job.parent else None
            if parent is not None and parent.state != "finished" and parent.key not in self.queue and parent.key not in self.at_work:
                # An earlier failure does not count: this call tries it again.
                parent.state = "waiting"
                self.queue[parent.key] = parent
            self.queue[job.key] = job

    def take_job(self) -> Job | None:
        """Take the first job whose parent has finished."""
        for job in self.queue.values():
            parent = self.plan.jobs[job.parent] if job.parent else None
            if parent is None or parent.state == "finished":
                del self.queue[job.key]
                if job.number is not None and self.plan.has_changed_files(job):
                    self.fail(job, CHANGED)
                    return self.take_job()
                self.at_work[job.key] = job
                return job
        return None

    def fail(self, job: Job, reason: str) -> None:
        """Mark a job as failed without running it."""
        job.state, job.reason = "failed", reason
        self.plan.ledger.write_jobs([job])
        self.display.show_end(job)
        self.stop_after_failure(job)

    def has_waiting(self) -> bool:
        return bool(self.queue)

    def make_task(self, job: Job, slot: Slot) -> Task:
        folder = self.plan.ledger.folder
        composed = self.plan.experiments[job.key]
        is_parent = job.number is None
        out_dir = folder / "parents" / job.key[:12] if is_parent else Path(job.folder)
        if is_parent:
            job.folder = str(out_dir)
        else:
            self.attempts[job.key] = outcomes.begin_attempt(job)
            recovery.note_point(job)
            composed = dataclasses.replace(composed, experiment=dataclasses.replace(composed.experiment, output_dir=str(out_dir)))
        name = " ".join(word for word in job.overrides if not word.startswith(("store=", "tracking"))) or "defaults"
        return Task(
            composed=composed,
            context=RunContext(out_dir=out_dir, name=name, group=folder.name, sources=self.plan.request.sources),
            parent_only=is_parent,
            output=out_dir / OUTPUT,
            threads=slot.threads,
            gpu=slot.gpu,
            device=hardware.resolve_device(composed.experiment.hardware.device),
            began=BEGAN,
            pruning=self.pruning.get(job.key),
        )

    def note_start(self, job: Job) -> None:
        self.plan.ledger.write_jobs([job])
        self.display.show_start(job)

    def note_end(self, job: Job, exit_code: int) -> None:
        del self.at_work[job.key]
        if job.number is None:
            self.note_parent_end(job, exit_code)
        else:
            attempt = self.attempts.pop(job.key, None)
            outcomes.absorb_outcome(job, exit_code, attempt, is_own=self.plan.may_have_other_key(job))
            if exit_code > 0 and job.reason == outcomes.describe_exit(exit_code):
                job.reason = outcomes.read_last_line(Path(job.folder) / OUTPUT) or job.reason
            if job.reason == outcomes.OTHER_KEY and self.plan.has_changed_files(job):
                job.reason = CHANGED
        self.plan.ledger.write_jobs([job])
        self.display.show_end(job)
        self.stop_after_failure(job)
        if job.reason and job.reason.startswith("Stopped: train.stop_after"):
            signals.request_stop(Stopped("train.stop_after is over", exit_code=143, status="stopped"))

    def stop_after_failure(self, job: Job) -> None:
        """With `sweep.fail_fast`: no other job starts, and those at work save and stop."""
        if self.plan.settings.fail_fast and job.state == "failed" and signals.get_stop_reason() is None:
            signals.request_stop(Stopped(f"sweep.fail_fast: {name_job(job)} failed: {job.reason}", exit_code=1, status="stopped"))

    def note_parent_end(self, parent: Job, exit_code: int) -> None:
        """Record the end of a parent. If it failed, its children fail at once."""
        if recall_parent(parent, self.plan):
            return
        stopped = exit_code in (130, 143)
        parent.state = "interrupted" if stopped else "failed"
        parent.seconds += time.time() - (parent.started or time.time())
        parent.reason = outcomes.read_last_line(Path(parent.folder) / OUTPUT) or outcomes.describe_exit(exit_code)
        orphans = [job for job in self.queue.values() if job.parent == parent.key]
        for job in orphans:
            del self.queue[job.key]
        if stopped:
            return
        for job in orphans:
            self.fail(job, f"its parent ({' '.join(parent.overrides)}) failed: {parent.reason}")

    def tick(self, running: Sequence[Job]) -> None:
        self.display.tick(running, self.plan.list_points())
