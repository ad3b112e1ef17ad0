"""Everything wrong with a command line of `-m`, said before anything is written or run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lexalign.artifacts.files import is_sweep
from lexalign.config import hardware
from lexalign.config.loading import Sources
from lexalign.config.schema import Experiment
from lexalign.errors import ConfigError
from lexalign.evaluation.metrics import DIRECTIONS
from lexalign.sweeps import fingerprint, points
from lexalign.sweeps.ledger import Ledger
from lexalign.sweeps.points import LOCAL, OURS, SweepRequest, make_standalone_command

SEARCHES = ("random", "tpe")


def refuse_wrong(overrides: Sequence[str], sources: Sources) -> None:
    """Raise ConfigError with every problem of every point; points that are in the sweep's ledger already were judged before."""
    asked = points.parse_request(overrides, sources)
    problems: dict[str, None] = {}
    to_check = asked.to_check()
    try:
        first = fingerprint.compose_point(tuple(to_check[0]), sources).experiment
        problems.update(dict.fromkeys(find_sweep_problems(first, asked)))
        judged = list_known_points(fingerprint.claim_folder(asked), sources)
    except ConfigError as error:
        problems.update(dict.fromkeys(error.problems))
        judged = set()
    for point in to_check:
        if tuple(make_standalone_command(point)) in judged:
            continue
        try:
            fingerprint.compose_point(tuple(point), sources)
        except ConfigError as error:
            problems.update(dict.fromkeys(error.problems))
    if problems:
        raise ConfigError(list(problems))


def list_known_points(folder: Path, sources: Sources) -> set[tuple[str, ...]]:
    """The points that a sweep's ledger holds, on ground that still stands."""
    if not is_sweep(folder):
        return set()
    with Ledger(folder) as ledger:
        valid = fingerprint.list_unchanged_inputs(ledger.facts().get("grounds", {}), sources)
        return {tuple(job.overrides) for job in ledger.jobs() if job.standing in valid}


def find_sweep_problems(experiment: Experiment, asked: SweepRequest) -> Iterator[str]:
    """What is wrong with the settings of the sweep itself, in the light of its first point."""
    chosen, launcher = experiment.sweep, asked.launcher
    if experiment.cache.action != "keep" or experiment.compare or experiment.reproduce or experiment.report:
        yield "-m: cache, compare, report and reproduce are done once and make no run; leave -m out"
    if experiment.stage.name == "chat":
        yield "-m: stage=chat is a conversation on one terminal; leave -m out"
    if chosen.sampler in SEARCHES and chosen.trials is None:
        yield f"sweep.sampler={chosen.sampler}: draws points, but how many? type sweep.trials=20"
    if chosen.sampler in SEARCHES and not asked.axes:
        yield f"sweep.sampler={chosen.sampler}: nothing varies; type intervals or lists, as in 'method.beta=interval(0.05,1)'"
    if chosen.sampler == "grid" and chosen.trials is not None:
        yield f"sweep.trials={chosen.trials}: a grid runs every point; leave it out, or type sweep=optuna"
    if chosen.sampler == "grid" and len(chosen.objectives) > 1:
        yield "sweep.objectives: a grid searches for nothing; leave it out (the report shows every metric), or type sweep=optuna"
    if unknown := [name for name in chosen.objectives if name not in DIRECTIONS]:
        yield f"sweep.objectives: {', '.join(unknown)} is measured by nothing; choose among {', '.join(DIRECTIONS)}"
    searched = chosen.sampler in SEARCHES or chosen.pruner != "none"
    if searched and not chosen.objectives and not (experiment.method and experiment.method.score):
        yield f"stage={experiment.stage.name}: has no score to search by; name what to search by, as in sweep.objectives=[perplexity]"
    if asked.sweeper != OURS:
        yield f"hydra/sweeper={asked.sweeper}: would keep no ledger, so that nothing could be resumed; leave it out, or type sweep=optuna"
    if launcher != LOCAL and searched:
        yield f"hydra/launcher={launcher}: runs the points of a grid; a search needs its jobs one by one: leave it out, or type sweep=grid"
    if launcher != LOCAL and chosen.jobs != "auto":
        yield f"sweep.jobs: hydra/launcher={launcher} has a setting of its own for it; leave it out"
    if chosen.pruner == "none":
        if asked.typed("sweep.prune_on", "sweep.prune_after", "sweep.reduction"):
            yield "sweep.prune_on, sweep.prune_after, sweep.reduction: nothing is pruned; type sweep.pruner=halving, asha or median"
        return
    if hardware.get_world_size(experiment.hardware) > 1:
        yield (
            f"sweep.pruner={chosen.pruner}: stops runs of one process, and hardware={experiment.hardware.strategy} starts several; "
            "type sweep.pruner=none, or hardware=auto"
        )
    if chosen.pruner == "halving" and chosen.sampler != "grid":
        yield (
            f"sweep.pruner=halving: compares points that are all there from the start, and sweep.sampler={chosen.sampler} draws one "
            "after the other; type sweep.pruner=asha, or list the points and type sweep=grid"
        )
    if chosen.pruner == "median" and asked.typed("sweep.reduction"):
        yield "sweep.reduction: sweep.pruner=median has no use for it; leave it out"
    if chosen.sampler != "grid" and chosen.seeds is not None:
        yield f"sweep.seeds={chosen.seeds}: a search prunes its points by single runs; leave sweep.seeds or sweep.pruner out"
    if len(chosen.objectives) > 1:
        yield f"sweep.pruner={chosen.pruner}: prunes by one number, and there are {len(chosen.objectives)} objectives; name one"
    if experiment.train is None or experiment.train.eval_steps is None:
        yield f"sweep.pruner={chosen.pruner}: compares evaluations while the runs train, and there are none; type train.eval_steps=10"
