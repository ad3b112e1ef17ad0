"""`tracking=none`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from lexalign.compat import hide_wandb


class NoTracker:
    """Records nothing, imports nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __enter__(self) -> Self:
        self.hidden = hide_wandb()
        self.hidden.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self.hidden.__exit__(None, None, None)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record nothing."""

    def log_earlier(self, rows: Sequence[tuple[int, dict[str, float]]]) -> None:
        """Record nothing."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Record nothing."""

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Record nothing."""

    def artifact(self, path: Path) -> None:
        """Record nothing."""

    def starts_from(self, path: Path) -> None:
        """Record nothing."""
