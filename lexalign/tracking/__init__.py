"""Where a run's numbers are shown: on Weights & Biases, on trackio's pages, or nowhere. `conf/tracking/` names one of these classes.

A tracker is a context manager around a whole run. Nothing here imports wandb or trackio before its tracker is entered.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from lexalign.config.schema import Tracking
from lexalign.tracking.no_tracker import NoTracker
from lexalign.tracking.sweep_summary import record_sweep
from lexalign.tracking.trackio_tracker import TrackioTracker
from lexalign.tracking.wandb_tracker import WandbTracker

__all__ = ["NoTracker", "Tracker", "TrackioTracker", "WandbTracker", "record_sweep"]


class Tracker(Protocol):
    """What a stage may ask of its tracker."""

    def __init__(
        self,
        settings: Tracking,
        out_dir: Path,
        config: dict[str, Any],
        run_name: str,
        group: str | None,
        job_type: str,
        typed: Sequence[str] = (),
    ):
        """Prepare a tracker. `config` is shown, so the caller has removed what nobody may see; `typed` are the overrides it came from.
        `group` is None for a run that stands alone: no job of a sweep, and nobody's parent."""

    def __enter__(self) -> Self:
        """Open the run."""

    def __exit__(self, *exception) -> None:
        """Close the run: finished, or failed where an exception passes through."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of one optimizer step."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Record metrics of the whole run."""

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Record rows as one table; columns in the order in which they first appear."""

    def artifact(self, path: Path) -> None:
        """Record where the run's artifact lies; nothing is uploaded."""

    def starts_from(self, path: Path) -> None:
        """Record the artifact that the run starts from; nothing is uploaded."""
