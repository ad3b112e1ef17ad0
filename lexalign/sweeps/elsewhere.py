"""Jobs that another launcher of Hydra's runs: on a cluster (submitit), on Ray, or in this process."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from lexalign.sweeps.ledger import Job
from lexalign.sweeps.plan import Plan, absorb

log = logging.getLogger(__name__)


def run(plan: Plan, jobs: Sequence[Job], launcher: Launcher) -> None:
    """Give the launcher all jobs at once, each with its folder; what they came to is read from there, since some launchers only wait."""
    jobs = [job for job in jobs if plan.must_run(job)]
    if not jobs:
        return
    folder = plan.ledger.folder.absolute()
    for job in jobs:
        job.state, job.attempts, job.started = "running", job.attempts + 1, time.time()
    plan.ledger.put(jobs)
    returned: Sequence[JobReturn] = []
    try:
        returned = launcher.launch([words(job, folder) for job in jobs], 0)
    finally:
        answers = [*returned, *[None] * (len(jobs) - len(returned))]
        for job, answer in zip(jobs, answers, strict=True):
            settle(job, answer)
        plan.ledger.put(jobs)


def words(job: Job, folder: Path) -> list[str]:
    """What the launcher is to run: the point, in its folder."""
    return [*job.overrides, f"hydra.sweep.dir='{folder}'", f"hydra.sweep.subdir='{job.number}'"]


def settle(job: Job, answer: JobReturn | None) -> None:
    """What a job came to: what its folder says, and where that is silent what the launcher says."""
    absorb(job, None)
    if job.state == "interrupted" and answer is not None and answer.status == JobStatus.FAILED:
        job.state, job.reason = "failed", str(answer._return_value)
