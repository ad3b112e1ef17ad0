"""Jobs that another launcher of Hydra's runs: on a cluster (submitit), on Ray, or in this process."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from lexalign.config import hardware
from lexalign.config.overrides import get_key
from lexalign.errors import ConfigError
from lexalign.sweeps.display import warn
from lexalign.sweeps.ledger import Job
from lexalign.sweeps.outcomes import SILENT, Attempt, absorb_outcome, begin_attempt
from lexalign.sweeps.plan import Plan
from lexalign.sweeps.recovery import note_point

SPARED = 15.0
"""Minutes of a job's time limit, at most, that are left for its checkpoint."""


def run_on_launcher(plan: Plan, jobs: Sequence[Job], launcher: Launcher) -> None:
    """Give the launcher all jobs at once, each with its folder. Their results are read from there, since some launchers return nothing."""
    jobs = [job for job in jobs if plan.must_run(job)]
    if not jobs:
        return
    refuse_idle(launcher)
    limits = getattr(launcher, "params", {})  # submitit's; others have none
    words_of_jobs = [make_words(job, plan, limits) for job in jobs]
    attempts = [begin_attempt(job) for job in jobs]
    for job in jobs:
        note_point(job)
        job.state, job.attempts, job.started = "running", job.attempts + 1, time.time()
    plan.ledger.write_jobs(jobs)
    answers_there: Sequence[JobReturn] = []
    try:
        answers_there = launcher.launch(words_of_jobs, 0)
    except Exception as error:
        if type(error).__module__.split(".")[0] != "submitit":
            raise
        warn(f"a job was lost, and the launcher waits for no other: {error}\nLet the others end before you type the line again")
    finally:
        answers = [*answers_there, *[None] * (len(jobs) - len(answers_there))]
        for job, attempt, answer in zip(jobs, attempts, answers, strict=True):
            settle_job(job, attempt, answer, is_own=plan.may_have_other_key(job))
        plan.ledger.write_jobs(jobs)


def refuse_idle(launcher: Launcher) -> None:
    """Raise ConfigError where the jobs would wait for ever: Ray is started on this machine, and jobs ask for more GPUs than it has."""
    ray = getattr(launcher, "ray_cfg", None)
    if ray is None or ray.init.get("address") is not None:
        return
    gpus_each, gpu_count = ray.remote.get("num_gpus") or 0, ray.init.get("num_gpus", hardware.count_cuda_devices())
    if gpus_each > gpu_count:
        raise ConfigError(
            f"hydra.launcher.ray.remote.num_gpus={gpus_each}: each job leases as many GPUs, and this machine has {gpu_count}; "
            "type hydra.launcher.ray.remote.num_gpus=0, or the address of a cluster: hydra.launcher.ray.init.address=auto"
        )


def make_words(job: Job, plan: Plan, limits: Mapping[str, Any]) -> list[str]:
    """Return the words that the launcher is to run: the point, its folder and its time limit."""
    train = plan.experiments[job.key].experiment.train
    words = [*job.overrides, f"hydra.sweep.dir='{plan.ledger.folder.absolute()}'", f"hydra.sweep.subdir='{job.number}'"]
    if limits.get("timeout_min") and train is not None and train.stop_after is None:
        words.append(f"train.stop_after={compute_stop_after(limits['timeout_min'], limits.get('signal_delay_s', 0.0) / 60)}")
    # The launcher's typed settings are composed once more in the job, and stand on those of `sweep=slurm`.
    return [*words, *(override for override in plan.request.fixed_overrides if get_key(override) == "sweep")]


def compute_stop_after(limit: float, warned: float) -> float:
    """Minutes after which a job saves and stops: a tenth before its time `limit`, and before it is `warned` that this is near."""
    return round(max(limit - max(min(limit / 10, SPARED), warned + 1), limit / 2), 2)


def settle_job(job: Job, attempt: Attempt, answer: JobReturn | None, *, is_own: bool) -> None:
    """Read a job's outcome from its folder; where the folder holds no result, take the launcher's answer."""
    absorb_outcome(job, None, attempt, is_own=is_own)
    if job.reason == SILENT and answer is not None and answer.status == JobStatus.FAILED:
        job.state, job.reason = "failed", str(answer._return_value)
