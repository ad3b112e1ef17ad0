"""Settings that not every point of a sweep reads: `method=dpo,simpo method.gamma=0.5,1` gives simpo its gammas and dpo none.

A single run refuses a setting that it would not read. A point of a sweep goes without it, which is said, where another point reads it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from lexalign.config.compose import Composition, compose
from lexalign.config.loading import CompositionError, Sources
from lexalign.config.overrides import get_key, name_key
from lexalign.errors import ConfigError
from lexalign.sweeps.points import SweepRequest, belongs_to_sweep
from lexalign.sweeps.points_file import format_override

MISSING = object()


@dataclass
class Drops:
    """What points went without, to be said."""

    counts: Counter[str] = field(default_factory=Counter)
    """Setting to the number of points that do not read it."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Setting to why the first of them does not."""

    def add(self, keys: dict[str, str]) -> None:
        """One point, and the settings it goes without, each with the reason."""
        for key, reason in keys.items():
            self.counts[key] += 1
            self.reasons.setdefault(key, reason)

    def describe(self) -> list[str]:
        """A line for each setting."""
        return [f"{key}: left out of {count} points, which do not read it ({self.reasons[key]})" for key, count in self.counts.items()]


@cache
def compose_point(overrides: tuple[str, ...], sources: Sources) -> Composition:
    """A point's experiment; composed once in a process."""
    return compose(overrides, sources)


@cache
def compose_choices(choices: tuple[str, ...], sources: Sources) -> Any:
    """The tree of these choices in groups, before any setting is put in; None where they cannot be composed."""
    try:
        return sources.compose(choices)
    except CompositionError:
        return None


def list_choices(overrides: Iterable[str], sources: Sources) -> tuple[str, ...]:
    """The overrides that choose a file in a group, which decides the settings there are."""
    return tuple(override for override in overrides if sources.is_group(get_key(override)))


def is_setting(override: str, sources: Sources) -> bool:
    """Whether an override gives a plain setting of a point a value."""
    key = get_key(override)
    return not override.startswith(("+", "~")) and not belongs_to_sweep(key) and not sources.is_group(key)


@cache
def list_shared_keys(request: SweepRequest) -> frozenset[str]:
    """The keys typed for the points that some, but not all, choices in groups have."""
    points = request.list_points_to_check()
    by_choice = {list_choices(point, request.sources): point for point in points}
    trees = [tree for choices in by_choice if (tree := compose_choices(choices, request.sources)) is not None]
    keys = {get_key(override) for point in by_choice.values() for override in point if is_setting(override, request.sources)}
    return frozenset(key for key in keys if 0 < sum(has_key(tree, key) for tree in trees) < len(trees))


def has_key(tree: Any, key: str) -> bool:
    """Whether a tree has a setting, null or not."""
    return OmegaConf.select(tree, key, default=MISSING) is not MISSING


def drop_unknown(point: Sequence[str], request: SweepRequest) -> tuple[list[str], dict[str, str]]:
    """A point without the settings that its choices do not have and others' do; and these settings, each with the reason."""
    shared = list_shared_keys(request)
    if not shared:
        return list(point), {}
    choices = list_choices(point, request.sources)
    tree = compose_choices(choices, request.sources)
    if tree is None:
        return list(point), {}
    axes = [choice for choice in choices if get_key(choice) in request.keys] or list(choices)
    unknown = {get_key(o): f"not a setting of {', '.join(axes)}" for o in point if get_key(o) in shared and not has_key(tree, get_key(o))}
    return [override for override in point if get_key(override) not in unknown], unknown


@cache
def drop_unread(point: tuple[str, ...], sources: Sources) -> tuple[tuple[str, ...], dict[str, str]]:
    """A point without the settings that it has and does not read, as it would be refused alone; and these, each with the reason.

    A setting is not read where even its own default, typed, is refused; where it is not, the value is what is wrong. Raises ConfigError
    for whatever else is wrong with the point.
    """
    try:
        compose_point(point, sources)
    except ConfigError as error:
        refusal = error
    else:
        return point, {}
    problems = {name_key(problem): problem for problem in refusal.problems}
    suspects = [override for override in point if get_key(override) in problems and is_setting(override, sources)]
    unread = {get_key(o): problems[get_key(o)] for o in suspects if is_unread(o, point, sources)}
    rest = tuple(override for override in point if get_key(override) not in unread)
    if not unread:
        raise refusal
    compose_point(rest, sources)
    return rest, unread


def is_unread(override: str, point: Sequence[str], sources: Sources) -> bool:
    """Whether a setting is refused whatever its value."""
    key = get_key(override)
    tree = compose_choices(list_choices(point, sources), sources)
    if tree is None or not has_key(tree, key):
        return False
    default = OmegaConf.select(tree, key)
    default_word = format_override(key, OmegaConf.to_container(default) if OmegaConf.is_config(default) else default)
    try:
        compose_point(tuple(default_word if other == override else other for other in point), sources)
    except ConfigError as error:
        return any(name_key(problem) == key for problem in error.problems)
    return False
