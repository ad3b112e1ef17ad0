"""Find everything that is wrong with a command line of `-m`, before anything is written or run."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lexalign.artifacts.files import is_sweep
from lexalign.config import hardware
from lexalign.config.loading import Sources
from lexalign.config.overrides import get_key, name_key
from lexalign.config.paths import find_write_problem
from lexalign.config.schema import Experiment
from lexalign.errors import ConfigError
from lexalign.evaluation.metrics import DIRECTIONS
from lexalign.sweeps import conditions, fingerprint, points
from lexalign.sweeps.ledger import Ledger
from lexalign.sweeps.points import LOCAL, OURS, SweepRequest, make_standalone_command

SEARCHES = ("random", "tpe")


def refuse_wrong(overrides: Sequence[str], sources: Sources) -> None:
    """Raise ConfigError with every problem of every point. Points in the sweep's ledger were checked by an earlier call."""
    request = points.parse_request(overrides, sources)
    problems: dict[str, None] = {}
    to_check = [conditions.drop_unknown(point, request)[0] for point in request.list_points_to_check()]
    try:
        _, first = fingerprint.read_sweep_settings(request)
        problems.update(dict.fromkeys(find_sweep_problems(first.experiment, request)))
        points_in_ledger = list_known_points(fingerprint.claim_folder(request), sources)
    except ConfigError as error:
        problems.update(dict.fromkeys(error.problems))
        points_in_ledger = set()
    read_keys: set[str] = set()
    unread_keys: dict[str, str] = {}
    for point in to_check:
        keys = {get_key(override) for override in point}
        if tuple(make_standalone_command(point)) in points_in_ledger:
            read_keys |= keys
            continue
        try:
            _, unread = conditions.drop_unread(tuple(point), sources)
        except ConfigError as error:
            problems.update(dict.fromkeys(add_hints(error.problems, request)))
        else:
            read_keys |= keys - set(unread)
            unread_keys |= unread
    problems.update(dict.fromkeys(problem for key, problem in unread_keys.items() if key not in read_keys))
    if problems:
        raise ConfigError(list(problems))


def add_hints(problems: Sequence[str], request: SweepRequest) -> list[str]:
    """Return the problems. One about an interval of whole numbers says how to type such an interval."""
    ends: dict[str, Any] = {axis.key: axis.sweep.value() for axis in request.axes if axis.is_interval}
    hints = []
    for problem in problems:
        key = name_key(problem)
        needs_int = key in ends and "whole number" in problem
        words = f"'{key}=int(interval({ends[key].start:g},{ends[key].end:g}))'" if needs_int else ""
        hints.append(f"{problem}; type an interval of whole numbers as {words}" if needs_int else problem)
    return hints


def list_known_points(folder: Path, sources: Sources) -> set[tuple[str, ...]]:
    """Return the points in a sweep's ledger whose inputs (files, code, versions) have not changed."""
    if not is_sweep(folder):
        return set()
    try:
        with Ledger(folder) as ledger:
            inputs, jobs = ledger.read_facts().get("grounds", {}), ledger.read_jobs()
    except ConfigError as error:
        if error.__cause__ is None:
            raise
        return set()  # the ledger is damaged and will be rebuilt
    except (sqlite3.DatabaseError, ValueError, TypeError, RecursionError):
        return set()
    unchanged = fingerprint.list_unchanged_inputs(inputs, sources)
    return {tuple(job.overrides) for job in jobs if job.standing in unchanged}


def find_sweep_problems(experiment: Experiment, request: SweepRequest) -> Iterator[str]:
    """Yield what is wrong with the settings of the sweep itself. `experiment` is its first point."""
    settings, launcher = experiment.sweep, request.launcher
    if experiment.cache.action != "keep" or experiment.compare or experiment.reproduce or experiment.report:
        yield "-m: cache, compare, report and reproduce are done once and make no run; leave -m out"
    if experiment.stage.name == "chat":
        yield "-m: stage=chat is a conversation on one terminal; leave -m out"
    if not request.has_typed("output_dir") and (problem := find_write_problem(Path(settings.folder))):
        yield f"sweep.folder={settings.folder}: cannot be written: {problem}; name another folder with output_dir=<folder>"
    if settings.sampler in SEARCHES and settings.trials is None:
        yield f"sweep.sampler={settings.sampler}: draws points, but how many? type sweep.trials=20"
    is_listed = bool(request.zips or request.rows)
    if is_listed and (settings.sampler in SEARCHES or settings.pruner in ("asha", "median")):
        yield (
            "sweep.zip, sweep.points: a search takes each axis for itself, and so do sweep.pruner=asha and median; "
            "type sweep=grid, with sweep.pruner=halving for bad points to stop early"
        )
    if launcher != LOCAL and settings.fail_fast:
        yield f"sweep.fail_fast: hydra/launcher={launcher} runs all its jobs at once; leave it out"
    if settings.sampler in SEARCHES and not request.axes:
        yield f"sweep.sampler={settings.sampler}: nothing varies; type intervals or lists, as in 'method.beta=interval(0.05,1)'"
    if settings.sampler == "grid" and settings.trials is not None:
        yield f"sweep.trials={settings.trials}: a grid runs every point; leave it out, or type sweep=optuna"
    if settings.sampler == "grid" and len(settings.objectives) > 1:
        yield "sweep.objectives: a grid searches for nothing; leave it out (the report shows every metric), or type sweep=optuna"
    if unknown := [name for name in settings.objectives if name not in DIRECTIONS]:
        yield f"sweep.objectives: {', '.join(unknown)} is measured by nothing; choose among {', '.join(DIRECTIONS)}"
    is_search = settings.sampler in SEARCHES or settings.pruner != "none"
    if is_search and not settings.objectives and not (experiment.method and experiment.method.score):
        yield f"stage={experiment.stage.name}: has no score to search by; name what to search by, as in sweep.objectives=[perplexity]"
    if request.sweeper != OURS:
        yield f"hydra/sweeper={request.sweeper}: would keep no ledger, so that nothing could be resumed; leave it out, or type sweep=optuna"
    if launcher != LOCAL and is_search:
        yield f"hydra/launcher={launcher}: runs the points of a grid; a search needs its jobs one by one: leave it out, or type sweep=grid"
    if launcher != LOCAL and settings.jobs != "auto":
        yield f"sweep.jobs: hydra/launcher={launcher} has a setting of its own for it; leave it out"
    if settings.pruner == "none":
        if request.has_typed("sweep.prune_on", "sweep.prune_after", "sweep.reduction"):
            yield "sweep.prune_on, sweep.prune_after, sweep.reduction: nothing is pruned; type sweep.pruner=halving, asha or median"
        return
    if hardware.get_world_size(experiment.hardware) > 1:
        yield (
            f"sweep.pruner={settings.pruner}: stops runs of one process, and hardware={experiment.hardware.strategy} starts several; "
            "type sweep.pruner=none, or hardware=auto"
        )
    if settings.pruner == "halving" and settings.sampler != "grid":
        yield (
            f"sweep.pruner=halving: compares points that are all there from the start, and sweep.sampler={settings.sampler} draws one "
            "after the other; type sweep.pruner=asha, or list the points and type sweep=grid"
        )
    if settings.pruner == "median" and request.has_typed("sweep.reduction"):
        yield "sweep.reduction: sweep.pruner=median has no use for it; leave it out"
    if settings.sampler != "grid" and settings.seeds is not None:
        yield f"sweep.seeds={settings.seeds}: a search prunes its points by single runs; leave sweep.seeds or sweep.pruner out"
    if len(settings.objectives) > 1:
        yield f"sweep.pruner={settings.pruner}: prunes by one number, and there are {len(settings.objectives)} objectives; name one"
    if experiment.train is None or experiment.train.eval_steps is None:
        yield f"sweep.pruner={settings.pruner}: compares evaluations while the runs train, and there are none; type train.eval_steps=10"
