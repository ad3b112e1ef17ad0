"""`tracking=none`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self


class NoTracker:
    """Records nothing, imports nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __enter__(self) -> Self:
        # transformers imports wandb if it is installed. None in sys.modules makes it look as if it were not.
        self.hidden = "wandb" not in sys.modules
        if self.hidden:
            sys.modules["wandb"] = None  # type: ignore[assignment]
        return self

    def __exit__(self, *exception) -> None:
        if self.hidden:
            sys.modules.pop("wandb", None)

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
