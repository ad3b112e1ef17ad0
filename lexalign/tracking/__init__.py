"""Trackers: Weights & Biases, trackio, or none. `conf/tracking/` names one of these classes.

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
    """The methods of a tracker that the stages use."""

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
        """Prepare a tracker. `config` is shown, so the caller has removed secrets; `typed` are the overrides as typed.
        `group` is None for a single run: no job of a sweep, and not a parent of another run."""

    def __enter__(self) -> Self:
        """Open the run."""

    def __exit__(self, *exception) -> None:
        """Close the run: as finished, or as failed if there is an exception."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of one optimizer step."""

    def log_earlier(self, rows: Sequence[tuple[int, dict[str, float]]]) -> None:
        """Record metrics of the steps before a resume (step, metrics), if this run does not have them."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Record metrics of the whole run."""

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Record rows as one table; columns in the order in which they first appear."""

    def artifact(self, path: Path) -> None:
        """Record the path of the run's artifact; nothing is uploaded."""

    def starts_from(self, path: Path) -> None:
        """Record the artifact that the run starts from; nothing is uploaded."""
