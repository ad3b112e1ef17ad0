"""What `-m` asks for: the points of a sweep as command lines, and the axes they lie on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from lexalign.config.loading import CONF_ONLY, CompositionError, Sources
from lexalign.config.overrides import get_key, parse_overrides
from lexalign.errors import ConfigError

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
    def drawn(self) -> bool:
        """Whether values come from an interval."""
        return isinstance(self.sweep.value(), IntervalSweep)


@dataclass(frozen=True)
class SweepRequest:
    """A command line with `-m`, read."""

    axes: tuple[Axis, ...]
    fixed: tuple[str, ...]
    sampler: str
    seeds: int | None
    launcher: str
    sweeper: str
    """Names of the launcher and the sweeper that Hydra was told to take."""
    sources: Sources = CONF_ONLY
    """Where the points are composed from."""

    def grid(self) -> list[list[str]]:
        """The overrides of every point, each repeated for every seed."""
        return [[*self.fixed, *choice] for choice in product(*(axis.options for axis in (*self.axes, *self.seed_axis())))]

    def seed_axis(self) -> list[Axis]:
        """`sweep.seeds` as an axis."""
        if self.seeds is None:
            return []
        words = [f"seed={number}" for number in range(self.seeds)]
        return [Axis("seed", tuple(words), OverridesParser.create().parse_override("seed=0"))]

    def typed(self, *keys: str) -> bool:
        """Whether one of these settings was typed."""
        return any(get_key(override) in keys for override in self.fixed)

    def to_check(self) -> list[list[str]]:
        """Points that show every value: all of a grid; of a search, where any may be drawn, each value beside the others' first."""
        if self.sampler == "grid":
            return self.grid()
        first = [axis.options[0] for axis in self.axes]
        varied = [[*first[:i], option, *first[i + 1 :]] for i, axis in enumerate(self.axes) for option in axis.options]
        return [[*self.fixed, *choice] for choice in (varied or [first])]


def parse_request(overrides: Sequence[str], sources: Sources = CONF_ONLY) -> SweepRequest:
    """Read the overrides of a multirun. Raises ConfigError for a sweep that has no points or that cannot be made."""
    read = parse_overrides(overrides, sources)
    axes = [parse_axis(override) for override in read if override.is_sweep_override()]
    swept = {axis.sweep.input_line for axis in axes}
    fixed = tuple(override for override in overrides if override not in swept)
    problems = [f"{axis.key}: belongs to the sweep and cannot be swept; give it one value" for axis in axes if belongs_to_sweep(axis.key)]
    problems += [f"{axis.sweep.input_line}: holds no value; the sweep has no points" for axis in axes if not axis.options]
    try:
        tree = sources.compose([*fixed, *(axis.options[0] for axis in axes if axis.options)])
        sampler, seeds = OmegaConf.select(tree, "sweep.sampler"), OmegaConf.select(tree, "sweep.seeds")
        launcher, sweeper = (str(tree.hydra.runtime.choices[f"hydra/{part}"]) for part in ("launcher", "sweeper"))
    except CompositionError:  # said when the points are composed
        sampler, seeds, launcher, sweeper = "grid", None, LOCAL, OURS
    keys = [get_key(override) for override in overrides]
    if isinstance(seeds, int) and "seed" in keys:
        problems.append(f"seed and sweep.seeds={seeds}: both choose the seeds; leave one of them out")
    if sampler == "grid":
        problems += [
            f"{axis.sweep.input_line}: a grid draws nothing from an interval; list values, as in -m {axis.key}=1,2, or type sweep=optuna"
            for axis in axes
            if axis.drawn
        ]
    if problems:
        raise ConfigError(problems)
    return SweepRequest(
        tuple(axes), fixed, str(sampler), seeds if isinstance(seeds, int) and seeds > 0 else None, launcher, sweeper, sources
    )


def parse_axis(override: Override) -> Axis:
    """What an override with several values varies."""
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
    """The overrides with which one would type a point on its own."""
    return [override for override in overrides if not belongs_to_sweep(get_key(override))]
