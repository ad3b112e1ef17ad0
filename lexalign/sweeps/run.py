"""One call of a sweep, from the command line to its summary and exit code."""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.plugins.launcher import Launcher
from hydra.utils import get_class

from lexalign.artifacts import lock
from lexalign.config import hardware
from lexalign.config.compose import Composition
from lexalign.config.schema import Experiment, Sweep
from lexalign.errors import LexAlignError, Stopped
from lexalign.runs import resume
from lexalign.sweeps import fingerprint, hydra_launchers, processes, recovery, slots
from lexalign.sweeps.display import Display, warn
from lexalign.sweeps.grid import Grid
from lexalign.sweeps.job import OUTPUT
from lexalign.sweeps.ledger import Job, format_counts
from lexalign.sweeps.plan import Plan
from lexalign.sweeps.points import SweepRequest
from lexalign.tracking import record_sweep


@contextmanager
def open_plan(request: SweepRequest, settings: Sweep, folder: Path, *, command: Sequence[str]) -> Iterator[Plan]:
    """The plan of a command line over the ledger in `folder`, which is ours alone until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with lock.hold_lock(folder) as left_by, recovery.open_ledger(folder) as ledger:
        if left_by:
            warn(f"{left_by} left its lock on {folder} and is gone; it is taken over")
        command_line = shlex.join(["python", "run.py", *command])
        yield Plan(ledger=ledger, request=request, settings=settings, command=command_line)


def run_sweep(plan: Plan, launcher: Launcher | None) -> None:
    """Run the plan's jobs and report the outcome. Exits with 1 where a point failed, and with a signal's code after a signal.

    `launcher` is the Hydra launcher that runs the jobs, None where processes of this machine do.
    """
    _, first = fingerprint.read_sweep_settings(plan.request)
    if plan.settings.sampler == "grid":
        to_run = list({job.key: job for job in plan.add(plan.request.list_grid()) if plan.must_run(job)}.values())
        like, count = [plan.experiments[job.key] for job in to_run], len(to_run)
        print_start(plan, len(to_run))
    else:
        to_run, like, count = [], [first], (plan.settings.trials or 1) * (plan.settings.seeds or 1)
        warn(f"{plan.ledger.folder}: {plan.settings.trials} points to draw")
    if launcher is not None:
        hydra_launchers.run_on_launcher(plan, to_run, launcher)
    elif count:
        roots = [[composed.experiment, *fingerprint.list_ancestors(composed.experiment, plan.request.sources)][-1] for composed in like]
        with take_slots(plan.settings, roots, count) as job_slots, Display(make_reporter(plan)) as display:
            try:
                processes.run_jobs(make_source(plan, display, to_run, first.experiment), job_slots, list_imports(like))
            except Stopped as stop:
                display.say(f"{stop}; {format_counts(plan.list_points())}. What was saved is whole: the same command goes on")
                make_reporter(plan)()
                sys.exit(stop.exit_code)
    if count:
        log_to_tracker(plan, first.experiment)
    finish_sweep(plan)


def make_source(plan: Plan, display: Display, to_run: Sequence[Job], first: Experiment) -> Grid:
    """Where the jobs come from: the points as they are listed, or a study that draws them, stops them early, or both."""
    if plan.settings.sampler == "grid" and plan.settings.pruner == "none":
        grid = Grid(plan, display)
        grid.enqueue(to_run)
        return grid
    if plan.settings.pruner == "halving":
        from lexalign.sweeps.halving import HalvingRounds

        return HalvingRounds(plan, display, plan.list_points())
    from lexalign.sweeps.study import StudySource

    return StudySource(plan, display, seed=first.seed, score=first.method.score if first.method else [])


@contextmanager
def take_slots(settings: Sweep, experiments: Sequence[Experiment], count: int) -> Iterator[list[slots.Slot]]:
    """Take slots for `count` jobs like these experiments; print how many there are, and why."""
    number, why = slots.count_slots(settings, experiments, waiting=count)
    cuda = any(hardware.resolve_device(experiment.hardware.device) == "cuda" for experiment in experiments)
    with slots.lease_gpus(number, cuda=cuda, each=slots.count_processes(experiments)) as job_slots:
        threads = job_slots[0].threads
        warn(f"{len(job_slots)} at a time, {threads} thread{'s' * (threads > 1)} each ({why})")
        yield job_slots


def list_imports(experiments: Sequence[Composition]) -> list[str]:
    """Modules that the jobs will need, to be imported once."""
    targets = [
        target
        for composed in experiments
        for target in (composed.experiment.stage.target, composed.experiment.method.target if composed.experiment.method else None)
        if target is not None
    ]
    tracked = ["wandb"] if any("WandbTracker" in composed.experiment.tracking.target for composed in experiments) else []
    return [*dict.fromkeys(target.rpartition(".")[0] for target in targets), *tracked]


def print_start(plan: Plan, to_run: int) -> None:
    """Print how many points there are, and which of them are not run, with the reason."""
    points = plan.list_points()
    done = sum(job.state == "finished" for job in points)
    warn(f"{plan.ledger.folder}: {len(points)} points, {done} finished before, {to_run} to run")
    for line in plan.drops.describe():
        warn(line)
    if plan.repeat_count:
        warn(f"points that are the same experiment as another: {plan.repeat_count}; each is run once")
    if plan.reuse_count:
        warn(f"points run before, elsewhere, and reused: {plan.reuse_count} (sweep.fresh=true runs them again)")
    if left_failed := [job for job in plan.list_points() if job.state == "failed" and not plan.must_run(job)]:
        warn(f"failed points that are left as they are: {len(left_failed)} (sweep.retry=none)")


def make_reporter(plan: Plan) -> Callable[[], None]:
    """Writes the report of a sweep that is still running; where that fails it is said once, and the jobs go on."""
    lost: set[str] = set()

    def write() -> None:
        from lexalign.sweeps import report

        try:
            report.write_report(plan.ledger.folder, live=True)
        except (LexAlignError, OSError) as error:
            if not lost:
                warn(f"{plan.ledger.folder / report.FILE} is not written: {error}")
            lost.add(str(error))

    return write


def finish_sweep(plan: Plan) -> None:
    """The report, the table, every failure named; exits with 1 where there is one."""
    from lexalign.sweeps.report import conclude_report

    every = plan.list_points()
    failed = [job for job in every if job.state == "failed"]
    warn(f"{plan.ledger.folder}: {format_counts(every)}")
    conclude_report(plan.ledger.folder)
    for job in failed:
        shows = OUTPUT if (job.reason or "").startswith("killed") else "run.log"
        warn(f"job {job.number}: {job.reason}; see {Path(job.folder) / shows}")
    if failed:
        sys.exit(1)


def log_to_tracker(plan: Plan, first: Experiment) -> None:
    """The sweep's own row beside its runs', where they are tracked."""
    if not resume.is_training_run(first):
        return
    settings, folder = first.tracking, plan.ledger.folder
    rows = [dataclasses.asdict(job) for job in plan.list_points()]
    record_sweep(
        get_class(settings.target), settings, folder, group=settings.group or folder.name, rows=rows, facts=plan.ledger.read_facts()
    )
