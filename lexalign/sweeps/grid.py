"""Every point of a plan, run as the plan says: parents once, before those that start from them."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lexalign.config.context import RunContext
from lexalign.errors import Stopped
from lexalign.sweeps import plan as plans
from lexalign.sweeps.display import Display
from lexalign.sweeps.job import OUTPUT, Task
from lexalign.sweeps.ledger import Job
from lexalign.sweeps.plan import Plan
from lexalign.sweeps.slots import Slot
from lexalign.training import signals

BEGAN = time.time()


class Grid:
    """A `lexalign.sweeps.processes.JobSource` of a plan's jobs that must run, in the plan's order."""

    def __init__(self, plan: Plan, display: Display):
        self.plan = plan
        self.display = display
        self.queue: dict[str, Job] = {}
        self.at_work: dict[str, Job] = {}
        self.pruning: dict[str, Any] = {}
        """What a job's process is told of the study it belongs to, by key."""

    def want(self, jobs: Sequence[Job]) -> None:
        """Put jobs in the queue, each with its parent before it."""
        for job in jobs:
            if not self.plan.must_run(job) or job.key in self.queue or job.key in self.at_work:
                continue
            parent = self.plan.jobs[job.parent] if job.parent else None
            if parent is not None and parent.state != "finished" and parent.key not in self.queue and parent.key not in self.at_work:
                # It is in the queue as a job of this call: whatever became of it before, it has a chance.
                parent.state = "waiting"
                self.queue[parent.key] = parent
            self.queue[job.key] = job

    def take(self) -> Job | None:
        """The first job whose parent is there."""
        for job in self.queue.values():
            parent = self.plan.jobs[job.parent] if job.parent else None
            if parent is None or parent.state == "finished":
                del self.queue[job.key]
                self.at_work[job.key] = job
                return job
        return None

    def waiting(self) -> bool:
        return bool(self.queue)

    def task(self, job: Job, slot: Slot) -> Task:
        folder = self.plan.ledger.folder
        composed = self.plan.experiments[job.key]
        is_parent = job.number is None
        out_dir = folder / "parents" / job.key[:12] if is_parent else Path(job.folder)
        if is_parent:
            job.folder = str(out_dir)
        else:
            composed = dataclasses.replace(composed, experiment=dataclasses.replace(composed.experiment, output_dir=str(out_dir)))
        name = " ".join(word for word in job.overrides if not word.startswith(("store=", "tracking"))) or "defaults"
        return Task(
            composed=composed,
            context=RunContext(out_dir=out_dir, name=name, group=folder.name, sources=self.plan.asked.sources),
            parent_only=is_parent,
            output=out_dir / OUTPUT,
            threads=slot.threads,
            gpu=slot.gpu,
            began=BEGAN,
            pruning=self.pruning.get(job.key),
        )

    def started(self, job: Job) -> None:
        self.plan.ledger.put([job])
        self.display.started(job)

    def ended(self, job: Job, exit_code: int) -> None:
        del self.at_work[job.key]
        if job.number is None:
            self.parent_ended(job, exit_code)
        else:
            plans.absorb_outcome(job, exit_code)
        self.plan.ledger.put([job])
        self.display.ended(job)
        if job.reason and job.reason.startswith("Stopped: train.stop_after"):
            signals.request_stop(Stopped("train.stop_after is over", exit_code=143, status="stopped"))

    def parent_ended(self, parent: Job, exit_code: int) -> None:
        """Children of a parent that failed fail with it, at once."""
        if plans.recall_parent(parent, self.plan):
            return
        stopped = exit_code in (130, 143)
        parent.state = "interrupted" if stopped else "failed"
        parent.seconds += time.time() - (parent.started or time.time())
        parent.reason = plans.read_last_line(Path(parent.folder) / OUTPUT) or plans.describe_exit(exit_code)
        orphans = [job for job in self.queue.values() if job.parent == parent.key]
        for job in orphans:
            del self.queue[job.key]
        if stopped:
            return
        for job in orphans:
            job.state, job.reason = "failed", f"its parent ({' '.join(parent.overrides)}) failed: {parent.reason}"
            self.plan.ledger.put([job])
            self.display.ended(job)

    def tick(self, running: Sequence[Job]) -> None:
        self.display.tick(running, self.plan.points())
