"""Where a run's numbers are shown: on Weights & Biases, or nowhere. `conf/tracking/` names one of these classes.

A tracker is a context manager around a whole run. Nothing here imports wandb before a `WandbTracker` is entered.
"""

import sys
from pathlib import Path
from typing import Any, Protocol, Self

from lexalign.schema import Tracking
from lexalign.tracking.weights_and_biases import WandbTracker

__all__ = ["NoTracker", "Tracker", "WandbTracker"]


class Tracker(Protocol):
    """What a stage may ask of its tracker."""

    def __init__(self, settings: Tracking, out_dir: Path, config: dict[str, Any], run_name: str, group: str | None, job_type: str):
        """Prepare a tracker. `config` is shown as it is, so the caller has removed what nobody may see."""

    def __enter__(self) -> Self:
        """Open the run."""

    def __exit__(self, *exception) -> None:
        """Close the run: finished, or failed where an exception passes through."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of one optimizer step."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Record metrics of the whole run."""

    def table(self, name: str, rows: list[dict[str, str]]) -> None:
        """Record rows as one table; columns in the order in which they first appear."""

    def artifact(self, path: Path) -> None:
        """Record where the run's artifact lies; nothing is uploaded."""


class NoTracker:
    """`tracking=none`: records nothing, imports nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __enter__(self) -> Self:
        # transformers imports wandb wherever it is installed; a None here makes it look as if it were not.
        self.hidden = "wandb" not in sys.modules
        if self.hidden:
            sys.modules["wandb"] = None  # type: ignore[assignment]
        return self

    def __exit__(self, *exception) -> None:
        if self.hidden:
            sys.modules.pop("wandb", None)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record nothing."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Record nothing."""

    def table(self, name: str, rows: list[dict[str, str]]) -> None:
        """Record nothing."""

    def artifact(self, path: Path) -> None:
        """Record nothing."""
