"""What surrounds a run and is no setting of it: where its configuration files come from, where it is written, how it is shown."""

from dataclasses import dataclass
from pathlib import Path

from lexalign.config.loading import CONF_ONLY, Sources


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The surroundings of one run."""

    out_dir: Path
    """The run's folder."""
    name: str = "defaults"
    """The run's name in a tracker."""
    group: str | None = None
    """Runs that a tracker shows together: the sweep, or the parents."""
    sources: Sources = CONF_ONLY
    """Where the run's parents are composed from."""
