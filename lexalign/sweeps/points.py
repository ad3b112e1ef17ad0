"""What `-m` asks for: the points of a sweep as command lines, and the axes they lie on."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from lexalign.config.loading import CONF_ONLY, CompositionError, Sources
from lexalign.config.overrides import get_key, parse_overrides
from lexalign.errors import ConfigError
from lexalign.sweeps.points_file import read_points

LOCAL, OURS = "local", "lexalign"
"""Hydra's names of our launcher and our sweeper."""
NOT_TYPED_ALONE = ("sweep", "output_dir", "hydra")
"""Settings (and groups of them) that belong to a sweep and not to one of its points."""


@dataclass(frozen=True)
class Axis:
    """A setting that the sweep varies: `key=value` for each listed value, or an interval (then `options` are its two ends)."""

    key: str
    options: tuple[str, ...]
    sweep: Override
    """What was typed."""

    @property
    def is_interval(self) -> bool:
        """Whether values come from an interval."""
        return isinstance(self.sweep.value(), IntervalSweep)


@dataclass(frozen=True, eq=False)
class SweepRequest:
    """A command line with `-m`, read."""

    axes: tuple[Axis, ...]
    fixed_overrides: tuple[str, ...]
    sampler: str
    seeds: int | None
    launcher: str
    sweeper: str
    """Names of the launcher and the sweeper that Hydra was told to take."""
    sources: Sources = CONF_ONLY
    """Where the points are composed from."""
    zips: tuple[tuple[str, ...], ...] = ()
    """Keys of axes that go together (`sweep.zip`)."""
    rows: tuple[tuple[str, ...], ...] = ()
    """Overrides of the points of a file (`sweep.points`); every other axis is crossed with them."""

    @property
    def keys(self) -> list[str]:
        """Every setting that varies, the seeds of `sweep.seeds` left out."""
        return list(dict.fromkeys([*(get_key(override) for row in self.rows for override in row), *(axis.key for axis in self.axes)]))

    def list_grid(self) -> list[list[str]]:
        """The overrides of every point, each repeated for every seed."""
        return [[*self.fixed_overrides, *(override for part in choice for override in part)] for choice in product(*self.list_directions())]

    def list_directions(self) -> list[list[tuple[str, ...]]]:
        """List the factors of the grid: the file's points, each axis (zipped axes are one factor), and the seeds."""
        directions: list[list[tuple[str, ...]]] = [list(self.rows)] if self.rows else []
        zipped = {key: group for group in self.zips for key in group}
        options = {axis.key: axis.options for axis in self.axes}
        for axis in self.axes:
            group = zipped.get(axis.key, (axis.key,))
            if axis.key == min(group, key=list(options).index):  # the first of them stands for all
                directions.append(list(zip(*(options[key] for key in group), strict=True)))
        for axis in self.list_seed_axes():
            directions.append([(option,) for option in axis.options])
        return directions

    def list_seed_axes(self) -> list[Axis]:
        """`sweep.seeds` as an axis."""
        if self.seeds is None:
            return []
        words = [f"seed={number}" for number in range(self.seeds)]
        return [Axis("seed", tuple(words), OverridesParser.create().parse_override("seed=0"))]

    def has_typed(self, *keys: str) -> bool:
        """Whether one of these settings was typed."""
        return any(get_key(override) in keys for override in self.fixed_overrides)

    def list_points_to_check(self) -> list[list[str]]:
        """Return points that contain every value: all of a grid; of a search, each value with the first values of the others."""
        if self.sampler == "grid":
            return self.list_grid()
        first = [axis.options[0] for axis in self.axes]
        points = [[*first[:i], option, *first[i + 1 :]] for i, axis in enumerate(self.axes) for option in axis.options]
        return [[*self.fixed_overrides, *choice] for choice in (points or [first])]


def parse_request(overrides: Sequence[str], sources: Sources = CONF_ONLY) -> SweepRequest:
    """Read the overrides of a multirun. Raises ConfigError for a sweep that has no points or that cannot be made."""
    parsed = parse_overrides(overrides, sources)
    axes = [parse_axis(override) for override in parsed if override.is_sweep_override()]
    sweep_words = {axis.sweep.input_line for axis in axes}
    fixed = tuple(override for override in overrides if override not in sweep_words)
    problems = [f"{axis.key}: belongs to the sweep and cannot be swept; give it one value" for axis in axes if belongs_to_sweep(axis.key)]
    problems += [f"{axis.sweep.input_line}: holds no value; the sweep has no points" for axis in axes if not axis.options]
    problems += [problem for axis in axes for problem in find_axis_problems(axis)]
    tree = compose_sweep([*fixed, *(axis.options[0] for axis in axes if axis.options)], sources)
    sampler, seeds, launcher, sweeper, zips, file = "grid", None, LOCAL, OURS, None, None
    if tree is not None:
        sampler, seeds, zips, file = (OmegaConf.select(tree, f"sweep.{name}") for name in ("sampler", "seeds", "zip", "points"))
        launcher, sweeper = (str(tree.hydra.runtime.choices[f"hydra/{part}"]) for part in ("launcher", "sweeper"))
    groups = read_zips(zips)
    problems += find_zip_problems(groups, axes)
    rows = read_rows(file, problems)
    typed_twice = {get_key(override) for row in rows for override in row} & {get_key(override) for override in overrides}
    problems += [f"{key}: stands in sweep.points={file} and on the command line; leave one of them out" for key in sorted(typed_twice)]
    keys = [get_key(override) for override in overrides]
    if isinstance(seeds, int) and "seed" in keys:
        problems.append(f"seed and sweep.seeds={seeds}: both choose the seeds; leave one of them out")
    if sampler == "grid":
        problems += [
            f"{axis.sweep.input_line}: a grid draws nothing from an interval; list values, as in -m {axis.key}=1,2, or type sweep=optuna"
            for axis in axes
            if axis.is_interval
        ]
    if problems:
        raise ConfigError(problems)
    return SweepRequest(
        tuple(axes), fixed, str(sampler), seeds if isinstance(seeds, int) and seeds > 0 else None, launcher, sweeper, sources,
        groups, rows,
    )  # fmt: skip


def compose_sweep(words: Sequence[str], sources: Sources) -> Any:
    """Compose a tree that holds the sweep's own settings: that of its first point or, where that fails, that of its choices in groups.
    None where these fail too; the reason is reported when the points are composed."""
    own = [word for word in words if belongs_to_sweep(get_key(word)) or sources.is_group(get_key(word))]
    for some in (words, own):
        try:
            return sources.compose(some)
        except CompositionError:
            continue
    return None


def find_axis_problems(axis: Axis) -> Iterator[str]:
    """What is wrong with an interval's ends, and with tags that nothing reads."""
    value, line = axis.sweep.value(), axis.sweep.input_line
    unread = sorted(set(getattr(value, "tags", ())) - ({"log"} if axis.is_interval else set()))
    if unread:
        yield f"{line}: tag {', '.join(unread)} is read by nothing; leave it out (an interval may be tag(log,interval(a,b)))"
    if not isinstance(value, IntervalSweep) or value.start is None or value.end is None:
        return
    if not (math.isfinite(value.start) and math.isfinite(value.end)):
        yield f"{line}: an interval has two ends that are numbers"
    elif value.start >= value.end:
        yield f"{line}: begins at {value.start} and ends at {value.end}; the first must be the smaller"
    elif "log" in value.tags and value.start <= 0:
        yield f"{line}: goes by the logarithm, and begins at {value.start}; let it begin above 0"


def read_zips(value: Any) -> tuple[tuple[str, ...], ...]:
    """`sweep.zip` as it is read before its type is checked: a list of lists, or one list."""
    groups_value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if not isinstance(groups_value, list) or not groups_value:
        return ()
    groups = groups_value if all(isinstance(item, list) for item in groups_value) else [groups_value]
    return tuple(tuple(str(key) for key in group) for group in groups if isinstance(group, list) and group)


def find_zip_problems(groups: Sequence[Sequence[str]], axes: Sequence[Axis]) -> Iterator[str]:
    """What is wrong with axes that are to go together."""
    options = {axis.key: axis.options for axis in axes}
    named = [key for group in groups for key in group]
    for key in dict.fromkeys(named):
        if key not in options:
            yield f"sweep.zip: {key} has no list of values; type one, as in {key}=a,b, or leave it out of sweep.zip"
        elif named.count(key) > 1:
            yield f"sweep.zip: {key} stands in it {named.count(key)} times; name it once"
        elif next(axis for axis in axes if axis.key == key).is_interval:
            yield f"sweep.zip: {key} is an interval, which has no first and no second value; list values"
    for group in groups:
        counts = {key: len(options[key]) for key in group if key in options}
        if len(set(counts.values())) > 1:
            lengths = ", ".join(f"{key} has {count}" for key, count in counts.items())
            yield f"sweep.zip: axes that go together have equally many values; {lengths}"


def read_rows(file: Any, problems: list[str]) -> tuple[tuple[str, ...], ...]:
    """The points of the file that `sweep.points` names."""
    if not isinstance(file, str) or not file:
        return ()
    try:
        return tuple(read_points(Path(file).expanduser()))
    except ConfigError as error:
        problems += error.problems
        return ()


def parse_axis(override: Override) -> Axis:
    """Read an override with several values as an axis."""
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return Axis(key, (f"{key}={value.start}", f"{key}={value.end}"), override)
    try:
        return Axis(key, tuple(f"{key}={word}" for word in override.sweep_string_iterator()), override)
    except HydraException as error:
        raise ConfigError(f"-m: {str(error).splitlines()[0]}") from error


def belongs_to_sweep(key: str) -> bool:
    """Whether a key is a setting of the sweep rather than of its points."""
    return any(f"{key}.".replace("/", ".").startswith(f"{name}.") for name in NOT_TYPED_ALONE)


def make_standalone_command(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that one would type to run the point alone."""
    return [override for override in overrides if not belongs_to_sweep(get_key(override))]
