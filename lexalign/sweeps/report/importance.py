"""How much each setting decides whether a point is a good one: PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255), as in Optuna."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lexalign.sweeps.report.gather import Report
from lexalign.sweeps.report.points import Point, is_log, to_numbers

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

QUANTILE = 0.25
"""A good point is one of the best quarter."""
LEAST_POINTS = 20
"""Finished points: Optuna advises five good ones at least."""
MOST_POINTS = 1000
"""Points looked at, evenly spaced in rank; more change nothing that can be seen."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares that add up to 1, the largest first; or none."""

    shares: dict[str, float] = field(default_factory=dict)
    said: str
    """How they were found, or why there are none."""


def measure_importance(report: Report, points: Sequence[Point]) -> Importance:
    """The importance of each setting for the score, seeds pooled."""
    varying_keys = [key for key in report.swept if len({point.settings.get(key) for point in points}) > 1]
    if report.score is None:
        return Importance(said="No finished point has a score yet.")
    if len(points) < LEAST_POINTS:
        return Importance(
            said=f"Too few finished points to tell: {len(points)}, and it takes {LEAST_POINTS} (different seeds count as one)."
        )
    if not varying_keys:
        return Importance(said="Nothing but the seed varies.")
    if len({point.mean for point in points}) == 1:
        return Importance(said="All points have the same score: no setting decides anything.")
    sample = (
        [points[round(at * (len(points) - 1) / (MOST_POINTS - 1))] for at in range(MOST_POINTS)]
        if len(points) > MOST_POINTS
        else list(points)
    )
    shares = ped_anova(sample, varying_keys, lower_is_better=report.score.lower_is_better)
    kinds = f"{len(sample)} points" + (f" of {len(points)}, evenly spaced by rank" if len(points) > MOST_POINTS else "")
    return Importance(
        shares=dict(sorted(shares.items(), key=lambda pair: -pair[1])),
        said=f"How much each setting decides whether a point is among the best {QUANTILE:.0%}, as a share of all "
        f"(PED-ANOVA, by Optuna). {kinds}.",
    )


def ped_anova(points: Sequence[Point], keys: Sequence[str], *, lower_is_better: bool) -> dict[str, float]:
    """Return the importance of each setting. A setting that some points lack counts for the points that have it."""
    import optuna

    columns = {key: make_column(key, points) for key in keys}
    trials = []
    for at, point in enumerate(points):
        own_columns = {key: (values[at], kind) for key, (values, kind) in columns.items() if key in point.settings}
        params, kinds = {key: value for key, (value, _) in own_columns.items()}, {key: kind for key, (_, kind) in own_columns.items()}
        trials.append(optuna.trial.create_trial(params=params, distributions=kinds, value=point.mean))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(direction="minimize" if lower_is_better else "maximize")
            study.add_trials(trials)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=QUANTILE)
            return optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)


def make_column(key: str, points: Sequence[Point]) -> tuple[list[Any], "BaseDistribution"]:
    """A setting's value in each point (any, where a point lacks it), and the distribution that holds them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    texts = [point.settings[key] for point in points if key in point.settings]
    numbers = to_numbers(texts)
    if numbers is None or min(numbers) == max(numbers):
        return [point.settings.get(key) for point in points], CategoricalDistribution(sorted(set(texts)))
    log = is_log(numbers)
    return [float(point.settings.get(key, "nan")) for point in points], FloatDistribution(min(numbers), max(numbers), log=log)
