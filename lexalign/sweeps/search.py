"""Points that are drawn, not listed, and points that stop early: Optuna's samplers and pruners over a study in the sweep's folder."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import IntervalSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lexalign.config.schema import Sweep
from lexalign.errors import ConfigError
from lexalign.evaluation.metrics import DIRECTIONS
from lexalign.sweeps.points import Axis

FILE = "study.journal"
NAME = "sweep"
logging.getLogger("optuna").setLevel(logging.WARNING)


def open_storage(file: Path) -> JournalStorage:
    """A journal that several processes may append to."""
    return JournalStorage(JournalFileBackend(str(file)))


def make_space(axes: Sequence[Axis]) -> dict[str, BaseDistribution]:
    """What each axis may hold: one of the listed values, or a number of an interval (`tag(log, interval(a,b))`: by its logarithm)."""
    space: dict[str, BaseDistribution] = {}
    for axis in axes:
        value = axis.sweep.value()
        if isinstance(value, IntervalSweep):
            logarithm = "log" in value.tags
            assert value.start is not None and value.end is not None
            whole = isinstance(value.start, int)
            space[axis.key] = (
                IntDistribution(int(value.start), int(value.end), log=logarithm)
                if whole
                else FloatDistribution(value.start, value.end, log=logarithm)
            )
        else:
            space[axis.key] = CategoricalDistribution([option.partition("=")[2] for option in axis.options])
    return space


def make_pruner(settings: Sweep) -> optuna.pruners.BasePruner:
    """Optuna's pruner of these settings."""
    if settings.pruner == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=settings.prune_after, reduction_factor=settings.reduction)
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=settings.prune_after - 1)
    return optuna.pruners.NopPruner()


def make_sampler(settings: Sweep, seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of these settings. `seed` must differ from call to call, since a sampler does not store its random state."""
    if settings.sampler == "tpe" and len(settings.objectives) < 2:
        return optuna.samplers.TPESampler(seed=seed, multivariate=True)
    return optuna.samplers.TPESampler(seed=seed) if settings.sampler == "tpe" else optuna.samplers.RandomSampler(seed=seed)


def list_directions(objectives: Sequence[str]) -> list[Any]:
    """Optuna's word for each metric."""
    return [DIRECTIONS[name] for name in objectives]


def open_study(
    file: Path, settings: Sweep, objectives: Sequence[str], space: Mapping[str, BaseDistribution], seed: int
) -> tuple[optuna.Study, list[str]]:
    """Open the study of a sweep, new or from an earlier call; return it with messages for the user.

    Where values were added to the search or taken from it, a further study goes on with the trials that fit. Raises ConfigError, before
    anything is written, where the study searches by something else.
    """
    storage = open_storage(file)
    names = [study.study_name for study in storage.get_all_studies()]
    if not names:
        return make_study(storage, NAME, settings, objectives, seed), []
    last = optuna.load_study(study_name=names[-1], storage=storage)
    noted_objectives = last.user_attrs.get("objectives", list(objectives))
    if noted_objectives != list(objectives):
        raise ConfigError(
            f"sweep.objectives: this sweep searches by {', '.join(noted_objectives)}, not by {', '.join(objectives)}; "
            f"type sweep.objectives=[{','.join(noted_objectives)}], or sweep.fresh=true"
        )
    trials = last.get_trials(deepcopy=False)
    if not has_other_space(trials, space):
        return make_study(storage, last.study_name, settings, objectives, seed + len(trials)), []
    study = make_study(storage, f"{NAME}.{len(names) + 1}", settings, objectives, seed + len(trials))
    taken_over = [copy for trial in trials if (copy := fit_trial(trial, space)) is not None]
    for copy in taken_over:
        if copy.state.is_finished():
            study.add_trial(copy)
        else:  # it was running when an earlier call stopped
            study.enqueue_trial(copy.params)
    outside_count = sum(bool(trial.params) for trial in trials) - len(taken_over)
    note = f"the values to search among have changed: {len(taken_over)} earlier points are taken over"
    return study, [note + (f", {outside_count} lie outside of them and are left as they are" if outside_count else "")]


def make_study(storage: JournalStorage, name: str, settings: Sweep, objectives: Sequence[str], seed: int) -> optuna.Study:
    """The study of this name, made where it is not there."""
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=make_sampler(settings, seed),
        pruner=make_pruner(settings),
        directions=list_directions(objectives),
        load_if_exists=True,
    )
    study.set_user_attr("objectives", list(objectives))
    return study


def has_other_space(trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution]) -> bool:
    """Whether some trial was drawn from other values than these. One without parameters was not drawn at all."""
    return any(trial.distributions and dict(trial.distributions) != dict(space) for trial in trials)


def fit_trial(trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> FrozenTrial | None:
    """The trial as one of this space; None where a value of its lies outside."""
    if set(trial.params) != set(space):
        return None
    params = {key: fit_value(trial.params[key], distribution) for key, distribution in space.items()}
    if any(value is None for value in params.values()):
        return None
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values if trial.state == TrialState.COMPLETE else None,
        params=params,
        distributions=dict(space),
        intermediate_values=trial.intermediate_values,
    )


def fit_value(value: Any, distribution: BaseDistribution) -> Any:
    """The value as the distribution has it; None where it lies outside."""
    if isinstance(distribution, CategoricalDistribution):
        return str(value) if str(value) in distribution.choices else None
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    try:
        number = int(str(value)) if isinstance(distribution, IntDistribution) else float(value)
    except ValueError:
        return None
    return number if distribution.low <= number <= distribution.high else None


def list_unfinished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials whose end an earlier call did not see."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
