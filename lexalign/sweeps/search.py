"""Points that are drawn, not listed, and points that stop early: Optuna's samplers and pruners over a study in the sweep's folder."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import IntervalSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

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
    """Optuna's sampler of these settings. `seed` is to differ from call to call: a sampler does not remember what it drew."""
    if settings.sampler == "tpe" and len(settings.objectives) < 2:
        return optuna.samplers.TPESampler(seed=seed, multivariate=True)
    return optuna.samplers.TPESampler(seed=seed) if settings.sampler == "tpe" else optuna.samplers.RandomSampler(seed=seed)


def list_directions(objectives: Sequence[str]) -> list[Any]:
    """Optuna's word for each metric."""
    return [DIRECTIONS[name] for name in objectives]


def open_study(file: Path, settings: Sweep, objectives: Sequence[str], seed: int) -> optuna.Study:
    """The study of a sweep, begun or gone on with."""
    storage = open_storage(file)
    names = {study.study_name: study._study_id for study in storage.get_all_studies()}
    trial_count = storage.get_n_trials(names[NAME]) if NAME in names else 0
    study = optuna.create_study(
        study_name=NAME,
        storage=storage,
        sampler=make_sampler(settings, seed + trial_count),
        pruner=make_pruner(settings),
        directions=list_directions(objectives),
        load_if_exists=True,
    )
    noted_objectives = study.user_attrs.get("objectives", list(objectives))
    if noted_objectives != list(objectives):
        raise ConfigError(
            f"sweep.objectives: this sweep searches by {', '.join(noted_objectives)}, not by {', '.join(objectives)}; "
            f"type sweep.objectives=[{','.join(noted_objectives)}], or sweep.fresh=true"
        )
    study.set_user_attr("objectives", list(objectives))
    return study


def list_unfinished(study: optuna.Study) -> list[Any]:
    """Trials that an earlier call began and never told the end of."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
