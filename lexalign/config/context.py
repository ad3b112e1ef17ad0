"""Facts about a run that are not settings: the places of its configuration files, its folder, and its names in a tracker."""

from dataclasses import dataclass
from pathlib import Path

from lexalign.config.loading import CONF_ONLY, Sources


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The context of one run."""

    out_dir: Path
    """The run's folder."""
    name: str = "defaults"
    """The run's name in a tracker."""
    group: str | None = None
    """The group of runs that a tracker shows together: the sweep, or the parents."""
    sources: Sources = CONF_ONLY
    """The sources from which the run's parents are composed."""
