"""Which jobs a command line asks for, which of them are done, and which must run, parents first."""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lexalign.artifacts import lock
from lexalign.artifacts.manifest import read_manifest
from lexalign.artifacts.result import RESULT, Result, read_result
from lexalign.config.compose import Composition
from lexalign.config.schema import Experiment
from lexalign.errors import ConfigError
from lexalign.runs import parents, resume
from lexalign.sweeps import fingerprint
from lexalign.sweeps.ledger import Job, Ledger, State
from lexalign.sweeps.points import SweepRequest, make_standalone_command
from lexalign.sweeps.report.folders import count_steps

log = logging.getLogger(__name__)
DONE: tuple[State, ...] = ("finished", "pruned")
SILENT = "the sweep was killed"
"""Why a job ended of which nothing is known."""


@dataclass
class Plan:
    """The jobs of one call of a sweep, over the ledger of all its calls."""

    ledger: Ledger
    asked: SweepRequest
    settings: Any
    """The sweep's own settings (`lexalign.config.schema.Sweep`)."""
    command: str
    jobs: dict[str, Job] = field(default_factory=dict)
    """Every job of the ledger, by key."""
    wanted: dict[str, None] = field(default_factory=dict)
    """Keys of the points that this call asks for, in their order."""
    experiments: dict[str, Composition] = field(default_factory=dict)
    """Of the jobs that may have to run; a parent's is that of a child."""
    twice: int = 0
    """Points that are the same experiment as another."""
    elsewhere: int = 0
    """New points whose work was done before, by another sweep or alone."""

    def __post_init__(self) -> None:
        facts = self.ledger.facts()
        mine = fingerprint.make_sweep_key(self.asked)
        if facts.get("identity", mine) != mine:
            raise ConfigError(
                f"output_dir={self.ledger.folder}: holds another sweep ({facts['command']}); name another folder, or leave output_dir out"
            )
        self.grounds: dict[str, dict[str, Any]] = facts.get("grounds", {})
        self.valid = fingerprint.list_unchanged_inputs(self.grounds, self.asked.sources)
        self.jobs = {job.key: job for job in self.ledger.jobs()}
        self.known = {tuple(job.overrides): job.key for job in self.jobs.values() if job.standing in self.valid and job.number is not None}
        self.number = self.ledger.next_number()
        self.ledger.note(identity=mine, command=self.command, swept=[axis.key for axis in self.asked.axes], grounds=self.grounds)
        self.ledger.note(objectives=self.settings.objectives, created=facts.get("created", time.time()))
        self.settle()

    def settle(self) -> None:
        """Learn from their folders what became of jobs that were running when an earlier call was killed, and which are no longer there."""
        changed = []
        for job in self.jobs.values():
            if job.state == "running":
                lock.wait_until_free(Path(job.folder))
                absorb_outcome(job, None)
                changed.append(job)
            elif job.state in DONE and not (Path(job.folder) / RESULT).is_file():
                log.warning("Job %s was %s, but %s is gone: it runs again", job.number, job.state, job.folder)
                job.state, job.attempts, job.score = "waiting", 0, None
                job.folder = str(self.ledger.folder / str(job.number)) if job.number is not None else ""
                changed.append(job)
        self.ledger.put(changed)

    def add(self, points: Iterable[Sequence[str]]) -> list[Job]:
        """The jobs of these points: those the ledger knows, and new ones."""
        found, new, varied = [], [], []
        for overrides in points:
            words = make_standalone_command(overrides)
            key = self.known.get(tuple(words))
            if key is None:
                job = self.made(overrides, words)
                key = job.key
                if key not in self.jobs:
                    self.jobs[key] = job
                    new.append(job)
                self.known[tuple(words)] = key
            job = self.jobs[key]
            self.twice += key in self.wanted
            self.wanted[key] = None
            if self.must_run(job) and key not in self.experiments:
                self.made(overrides, words)
            if job.values != (values := {**job.values, **self.values(overrides)}):  # a sweep that got another axis, seeds for instance
                job.values = values
                varied.append(job)
            found.append(job)
        self.ledger.put([*new, *varied])
        self.ledger.note(grounds=self.grounds)
        return found

    def made(self, overrides: Sequence[str], words: list[str]) -> Job:
        """A new job for a point; its parent's job beside it."""
        composed = fingerprint.compose_point(tuple(overrides), self.asked.sources)
        experiment = composed.experiment
        line = [experiment, *fingerprint.list_ancestors(experiment, self.asked.sources)]
        key, parent = fingerprint.make_job_keys(line)
        ground = fingerprint.list_inputs(line)
        standing = fingerprint.digest_inputs(ground, self.asked.sources)
        self.grounds[standing] = ground
        self.experiments[key] = composed
        if parent is not None and parent not in self.jobs:
            self.jobs[parent] = self.parent_job(parent, line)
        if parent is not None:
            self.experiments.setdefault(parent, composed)
        number, self.number = self.number, self.number + (key not in self.jobs)
        job = Job(
            key=key, number=number, overrides=words, values=self.values(overrides), stage=experiment.stage.name,
            method=experiment.method.name if experiment.method else None, folder=str(self.ledger.folder / str(number)), parent=parent,
            command=self.command, standing=standing,
        )  # fmt: skip
        if key not in self.jobs and not self.settings.fresh:
            self.reuse(job, experiment)
        return job

    def values(self, overrides: Sequence[str]) -> dict[str, str]:
        """What tells a point from the others."""
        swept = {axis.key for axis in (*self.asked.axes, *self.asked.seed_axis())}
        return {key: value for key, _, value in (word.partition("=") for word in overrides) if key in swept}

    def parent_job(self, key: str, line: Sequence[Experiment]) -> Job:
        """The job of the run that points start from."""
        name = line[0].model.parent
        method = line[1].method
        found = parents.recall_finished_run(Path(line[0].store), key)
        job = Job(key=key, number=None, overrides=[f"experiment={name}"], stage=line[1].stage.name, method=method.name if method else None)
        if found is not None:
            fill_from_finished_run(job, found)
        return job

    def reuse(self, job: Job, experiment: Experiment) -> None:
        """Where the same work was done before, by another sweep or alone, it is not done again."""
        found = parents.recall_finished_run(Path(experiment.store), job.key) if resume.is_training_run(experiment) else None
        if found is not None and Path(found.details["folder"]) != Path(job.folder).resolve():
            fill_from_finished_run(job, found)
            self.elsewhere += 1

    def must_run(self, job: Job) -> bool:
        """Whether this call is to run a job."""
        if job.state == "pruned":
            return self.settings.pruner == "none"
        return job.state != "finished" and not (job.state == "failed" and self.settings.retry == "none")

    def points(self) -> list[Job]:
        """The jobs this call asks for."""
        return [self.jobs[key] for key in self.wanted]


def fill_from_finished_run(job: Job, result: Result) -> None:
    """Fill in a job from the finished run that `lexalign.runs.parents.recall_finished_run` found."""
    job.state, job.folder, job.reason, job.pid = "finished", str(Path(result.details["folder"]).resolve()), None, None
    job.seconds = result.seconds or 0.0
    copy_result(job, result)


def recall_parent(parent: Job, plan: Plan) -> bool:
    """Whether a parent's run is there now; its job is filled in from it."""
    found = parents.recall_finished_run(Path(plan.experiments[parent.key].experiment.store), parent.key)
    if found is not None:
        fill_from_finished_run(parent, found)
    return found is not None


def copy_result(job: Job, result: Result) -> None:
    """Take over what a run measured."""
    job.score, job.score_name, job.score_direction = result.score, result.score_name, result.score_direction
    job.metrics, job.steps = result.metrics["after"], result.counts.get("steps")


def absorb_outcome(job: Job, exit_code: int | None) -> None:
    """What became of a job's last attempt, as its folder and its exit code (None where nobody saw it end) tell."""
    file = Path(job.folder) / RESULT
    result = read_result(Path(job.folder)) if file.is_file() and file.stat().st_mtime >= (job.started or 0) - 1 else None
    if exit_code is None:
        job.seconds += (result.seconds or 0.0) if result is not None else 0.0
    else:
        job.seconds += time.time() - (job.started or time.time())
    job.pid, job.reason = None, None
    if result is not None and result.status in ("finished", "planned", "paused", "pruned"):
        job.state = result.status  # type: ignore[assignment]
        if result.status == "finished" and has_other_inputs(job, result):
            job.state, job.reason = "failed", "its data or model changed after the sweep was planned; type the same command again"
            return
        copy_result(job, result)
        if result.status in ("paused", "pruned"):
            job.steps, job.reason = count_steps(Path(job.folder)), (result.error or "").removeprefix(f"Stopped: {result.status} ")
        return
    job.state = "failed"
    if result is not None and result.status in ("interrupted", "stopped"):
        job.state, job.reason = "interrupted", result.error
    elif result is not None and (exit_code is None or exit_code > 0):
        job.reason = result.error
    elif exit_code is None:
        job.state, job.reason = "interrupted", SILENT
    else:
        job.reason = describe_exit(exit_code)


def has_other_inputs(job: Job, result: Result) -> bool:
    """Return whether a finished job was made from other files than it was planned with. A branch of the hub may have become a commit."""
    if result.key in (None, job.key) or result.artifact is None:
        return False
    manifest = read_manifest(Path(result.artifact))
    return not any("repo" in (manifest.get(part) or {}) for part in ("data", "model"))


def describe_exit(exit_code: int) -> str:
    """What an exit code tells of a process that left no result."""
    import signal

    if exit_code >= 0:
        return f"exit code {exit_code}; nothing else was left"
    name = signal.Signals(-exit_code).name
    return f"killed by {name}" + {"SIGKILL": " (out of memory, perhaps)", "SIGSEGV": " (a segmentation fault)"}.get(name, "")


def read_last_line(file: Path) -> str | None:
    """The last words of what a process printed; None where it printed nothing."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
