"""The jobs of a command line: which are done, and which must run, parents first."""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lexalign.artifacts import lock
from lexalign.artifacts.fingerprint import digest_local_files
from lexalign.artifacts.result import RESULT
from lexalign.config.compose import Composition
from lexalign.config.schema import Experiment
from lexalign.errors import ConfigError, LexAlignError
from lexalign.runs import parents, resume
from lexalign.sweeps import conditions, fingerprint, recovery
from lexalign.sweeps.display import warn
from lexalign.sweeps.ledger import Job, Ledger, format_counts
from lexalign.sweeps.outcomes import DONE, absorb_outcome, fill_from_finished_run
from lexalign.sweeps.points import SweepRequest, make_standalone_command

log = logging.getLogger(__name__)


@dataclass
class Plan:
    """The jobs of one call of a sweep, over the ledger of all its calls."""

    ledger: Ledger
    request: SweepRequest
    settings: Any
    """The sweep's own settings (`lexalign.config.schema.Sweep`)."""
    command: str
    jobs: dict[str, Job] = field(default_factory=dict)
    """Every job of the ledger, by key."""
    point_keys: dict[str, None] = field(default_factory=dict)
    """Keys of the points that this call asks for, in their order."""
    experiments: dict[str, Composition] = field(default_factory=dict)
    """Of the jobs that may have to run; a parent's is that of a child."""
    local_files: dict[str, Any] = field(default_factory=dict)
    """Of each of these: digests of the files of the user's own that its key stands on."""
    drops: conditions.Drops = field(default_factory=conditions.Drops)
    """Settings that points do not read, and go without."""
    repeat_count: int = 0
    """Points that are the same experiment as another."""
    reuse_count: int = 0
    """New points whose work was done before, by another sweep or alone."""

    def __post_init__(self) -> None:
        facts = self.ledger.read_facts() or recovery.read_sweep_note(self.ledger.folder)
        mine = fingerprint.make_sweep_key(self.request)
        if facts.get("identity", mine) != mine:
            other = f"output_dir={self.ledger.folder}: holds another sweep ({facts.get('command')})"
            raise ConfigError(f"{other}; name another folder, or leave output_dir out")
        self.inputs_by_digest: dict[str, dict[str, Any]] = facts.get("grounds", {})
        self.unchanged_inputs = fingerprint.list_unchanged_inputs(self.inputs_by_digest, self.request.sources)
        self.jobs = {job.key: job for job in self.ledger.read_jobs() or self.rebuild_jobs()}
        self.keys_by_words = {
            tuple(job.overrides): job.key for job in self.jobs.values() if job.standing in self.unchanged_inputs and job.number is not None
        }
        self.number = max([self.ledger.find_next_number(), *(number + 1 for number in recovery.list_numbers(self.ledger.folder))])
        sweep_facts = {"identity": mine, "command": self.command, "swept": self.request.keys}
        sweep_facts |= {"objectives": list(self.settings.objectives), "created": facts.get("created", time.time())}
        self.ledger.write_facts(**sweep_facts, grounds=self.inputs_by_digest)
        recovery.note_sweep(self.ledger.folder, **sweep_facts)
        self.absorb_lost_jobs()

    def rebuild_jobs(self) -> list[Job]:
        """Rebuild an empty ledger from the jobs' folders, where there are some."""
        lost = recovery.list_lost_jobs(self.ledger.folder)
        if lost:
            warn(f"{self.ledger.path}: was lost and is rebuilt from the jobs' folders: {format_counts(lost)}")
            self.ledger.write_jobs(lost)
        return lost

    def absorb_lost_jobs(self) -> None:
        """Read the outcome of jobs that were running when an earlier call was killed, and find jobs whose folders are gone."""
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
        self.ledger.write_jobs(changed)

    def add(self, points: Iterable[Sequence[str]]) -> list[Job]:
        """Return the jobs of these points: those in the ledger, and new ones."""
        jobs, new_jobs, varied_jobs = [], [], []
        for point in points:
            overrides, dropped = conditions.drop_unknown(point, self.request)
            words = make_standalone_command(overrides)
            key = self.keys_by_words.get(tuple(words))
            if key is None:
                point_words, unread = conditions.drop_unread(tuple(overrides), self.request.sources)
                overrides, dropped = list(point_words), dropped | unread
                words = make_standalone_command(overrides)
                key = self.keys_by_words.get(tuple(words))
            self.drops.add(dropped)
            if key is None:
                job = self.make_job(overrides, words)
                key = job.key
                if key not in self.jobs:
                    self.jobs[key] = job
                    new_jobs.append(job)
                self.keys_by_words[tuple(words)] = key
            job = self.jobs[key]
            self.repeat_count += key in self.point_keys
            self.point_keys[key] = None
            if self.must_run(job) and key not in self.experiments:
                self.make_job(overrides, words)
            if job.values != (
                values := {**job.values, **self.list_axis_values(overrides)}
            ):  # the sweep got another axis, for instance seeds
                job.values = values
                varied_jobs.append(job)
            jobs.append(job)
        self.ledger.write_jobs([*new_jobs, *varied_jobs])
        self.ledger.write_facts(grounds=self.inputs_by_digest)
        return jobs

    def make_job(self, overrides: Sequence[str], words: list[str]) -> Job:
        """Make a new job for a point, and its parent's job where that is new."""
        composed = fingerprint.compose_point(tuple(overrides), self.request.sources)
        experiment = composed.experiment
        line = [experiment, *fingerprint.list_ancestors(experiment, self.request.sources)]
        key, parent = fingerprint.make_job_keys(line)
        ground = fingerprint.list_inputs(line)
        standing = fingerprint.digest_inputs(ground, self.request.sources)
        self.inputs_by_digest[standing] = ground
        self.experiments[key], self.local_files[key] = composed, list_local_files(line)
        if parent is not None and parent not in self.jobs:
            self.jobs[parent] = self.make_parent_job(parent, line)
        if parent is not None:
            self.experiments.setdefault(parent, composed)
        number, self.number = self.number, self.number + (key not in self.jobs)
        job = Job(
            key=key, number=number, overrides=words, values=self.list_axis_values(overrides), stage=experiment.stage.name,
            method=experiment.method.name if experiment.method else None, folder=str(self.ledger.folder / str(number)), parent=parent,
            command=self.command, standing=standing,
        )  # fmt: skip
        if key not in self.jobs and not self.settings.fresh:
            self.reuse_finished_run(job, experiment)
        return job

    def list_axis_values(self, overrides: Sequence[str]) -> dict[str, str]:
        """Return a point's values of the settings that vary."""
        axis_keys = {*self.request.keys, *(axis.key for axis in self.request.list_seed_axes())}
        return {key: value for key, _, value in (word.partition("=") for word in overrides) if key in axis_keys}

    def make_parent_job(self, key: str, line: Sequence[Experiment]) -> Job:
        """The job of the run that points start from."""
        name = line[0].model.parent
        method = line[1].method
        finished_run = parents.recall_finished_run(Path(line[0].store), key)
        job = Job(key=key, number=None, overrides=[f"experiment={name}"], stage=line[1].stage.name, method=method.name if method else None)
        if finished_run is not None:
            fill_from_finished_run(job, finished_run)
        return job

    def reuse_finished_run(self, job: Job, experiment: Experiment) -> None:
        """Take over the result where the same work was done before, by another sweep or by a single run."""
        finished_run = parents.recall_finished_run(Path(experiment.store), job.key) if resume.is_training_run(experiment) else None
        if finished_run is not None and Path(finished_run.details["folder"]) != Path(job.folder).resolve():
            fill_from_finished_run(job, finished_run)
            self.reuse_count += 1

    def has_changed_files(self, job: Job) -> bool:
        """Whether files that a point's key stands on were changed since it was planned: data, or a model, of the user's own."""
        if job.key not in self.local_files:
            return False
        experiment = self.experiments[job.key].experiment
        try:
            line = [experiment, *fingerprint.list_ancestors(experiment, self.request.sources)]
            return list_local_files(line) != self.local_files[job.key]
        except (OSError, LexAlignError):  # a file is gone
            return True

    def may_have_other_key(self, job: Job) -> bool:
        """Whether a run of the job may rightly have another key than planned: a branch of a hub stands for a commit once it is fetched."""
        if job.key not in self.local_files:
            return False
        uses_hub = any(len(parts) < 2 for parts in self.local_files[job.key])  # of the model and the data, one is not local
        return uses_hub and not self.has_changed_files(job)

    def must_run(self, job: Job) -> bool:
        """Whether this call is to run a job."""
        if job.state == "pruned":
            return self.settings.pruner == "none"
        return job.state != "finished" and not (job.state == "failed" and self.settings.retry == "none")

    def list_points(self) -> list[Job]:
        """The jobs this call asks for."""
        return [self.jobs[key] for key in self.point_keys]


def list_local_files(line: Sequence[Experiment]) -> list[Any]:
    """Digests of the models' and data's files of a run and its ancestors, those of the hub's repositories left out."""
    return [digest_local_files(experiment) for experiment in line]


def recall_parent(parent: Job, plan: Plan) -> bool:
    """Whether a parent's run is there now; its job is filled in from it."""
    finished_run = parents.recall_finished_run(Path(plan.experiments[parent.key].experiment.store), parent.key)
    if finished_run is not None:
        fill_from_finished_run(parent, finished_run)
    return finished_run is not None
