"""One call of a sweep, from the command line to its summary and exit code."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from lexalign import hardware
from lexalign.artifacts import write_text
from lexalign.checkpoints import lock
from lexalign.compose import Composed
from lexalign.errors import Stopped
from lexalign.schema import Sweep
from lexalign.sweeps import elsewhere, identity, processes, slots
from lexalign.sweeps.display import Display, warn
from lexalign.sweeps.grid import Grid
from lexalign.sweeps.job import OUTPUT
from lexalign.sweeps.ledger import Job, Ledger, counted
from lexalign.sweeps.plan import Plan
from lexalign.sweeps.points import Asked


@contextmanager
def opened(asked: Asked, settings: Sweep, folder: Path, *, command: Sequence[str], config_dirs: Sequence[str]) -> Iterator[Plan]:
    """The plan of a command line over the ledger in `folder`, which is ours alone until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with lock.held(folder) as left_by, Ledger(folder, write=True) as ledger:
        if left_by:
            warn(f"{left_by} left its lock on {folder} and is gone; it is taken over")
        typed = shlex.join(["python", "run.py", *command])
        yield Plan(ledger=ledger, asked=asked, settings=settings, config_dirs=config_dirs, command=typed)


def run(plan: Plan, launcher: Launcher | None) -> None:
    """Run what the plan's call asks for and say what came of it; exits with 1 where a point failed, with a signal's code after it.

    `launcher` is the Hydra launcher that runs the jobs, None where processes of this machine do.
    """
    write_text(plan.ledger.folder / "multirun.yaml", OmegaConf.to_yaml({"command": plan.command}))
    drawn = plan.settings.sampler != "grid"
    jobs = plan.add(plan.asked.to_check()[:1] if drawn else plan.asked.grid())
    if drawn:
        plan.wanted.clear()
        warn(f"{plan.ledger.folder}: {plan.settings.trials} points to draw")
    else:
        tell_start(plan)
    to_run = [job for job in jobs if drawn or plan.must_run(job)]
    if launcher is not None:
        elsewhere.run(plan, to_run, launcher)
        finish(plan)
        return
    with on_slots(plan, to_run) as found, Display(report_of(plan)) as display:
        try:
            source = source_of(plan, display, to_run)
            processes.run(source, found, imports(list(plan.experiments.values())))
        except Stopped as stop:
            display.say(f"{stop}; {counted(plan.points())}. What was saved is whole: the same command goes on")
            report_of(plan)()
            sys.exit(stop.exit_code)
    finish(plan)


def source_of(plan: Plan, display: Display, to_run: Sequence[Job]) -> Grid:
    """Where the jobs come from: the points as they are listed, or a study that draws them, stops them early, or both."""
    if plan.settings.sampler == "grid" and plan.settings.pruner == "none":
        grid = Grid(plan, display)
        grid.want(to_run)
        return grid
    from lexalign.sweeps.study import Studied

    _, first = identity.settings_of(plan.asked, plan.config_dirs)
    experiment = first.experiment
    return Studied(plan, display, seed=experiment.seed, score=experiment.method.score if experiment.method else [])


@contextmanager
def on_slots(plan: Plan, to_run: Sequence[Job]) -> Iterator[list[slots.Slot]]:
    """The slots for these jobs; says how many there are, and why."""
    if not any(job.key in plan.experiments for job in to_run):
        yield [slots.Slot(1, None)]
        return
    experiments = [plan.experiments[job.key].experiment for job in to_run if job.key in plan.experiments]
    count, why = slots.how_many(plan.settings, experiments, waiting=max(len(to_run), plan.settings.trials or 0))
    cuda = any(hardware.resolve_device(experiment.hardware.device) == "cuda" for experiment in experiments)
    with slots.leased(count, cuda=cuda) as found:
        warn(f"{len(found)} at a time, {found[0].threads} thread{'s' * (found[0].threads > 1)} each ({why})")
        yield found


def imports(experiments: Sequence[Composed]) -> list[str]:
    """Modules that the jobs will need, to be imported once."""
    targets = [
        target
        for composed in experiments
        for target in (composed.experiment.stage.target, composed.experiment.method.target if composed.experiment.method else None)
        if target is not None
    ]
    tracked = ["wandb"] if any("WandbTracker" in composed.experiment.tracking.target for composed in experiments) else []
    return [*dict.fromkeys(target.rpartition(".")[0] for target in targets), *tracked]


def tell_start(plan: Plan) -> None:
    """Say how many points there are, and which of them are not run although they were asked for."""
    points = plan.points()
    done, to_run = (sum(test(job) for job in points) for test in (lambda job: job.state == "finished", plan.must_run))
    warn(f"{plan.ledger.folder}: {len(points)} points, {done} finished before, {to_run} to run")
    if plan.twice:
        warn(f"{plan.twice} of the points are the same experiment as another; each is run once")
    if plan.elsewhere:
        warn(f"{plan.elsewhere} points were run before elsewhere, and are reused (sweep.fresh=true runs them again)")
    if left := [job for job in plan.points() if job.state == "failed" and not plan.must_run(job)]:
        warn(f"sweep.retry=none: {len(left)} failed points are left as they are")


def report_of(plan: Plan) -> Callable[[], None]:
    """Writes the sweep's report."""
    return lambda: None


def finish(plan: Plan) -> None:
    """The summary, every failure named; exits with 1 where there is one."""
    every = plan.points()
    failed = [job for job in every if job.state == "failed"]
    warn(f"{plan.ledger.folder}: {counted(every)}")
    for job in failed:
        shows = OUTPUT if (job.reason or "").startswith("killed") else "run.log"
        warn(f"job {job.number}: {job.reason}; see {Path(job.folder) / shows}")
    if failed:
        sys.exit(1)
