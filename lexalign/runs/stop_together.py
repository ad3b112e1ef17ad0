"""Stops all processes of a run after the same step if one of them has a reason to stop."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lexalign.distributed import collectives
from lexalign.errors import Stopped
from lexalign.training import signals


class CollectiveWatcher(signals.Watcher):
    """A watcher that is asked to stop by a file. The process that started this one writes it.

    All processes call `get_stop_reason` at the same points of the loop.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def get_stop_reason(self) -> Stopped | None:
        """The reason of any process to stop after this step; None if there is none."""
        if self.asked is None:
            reason = self.noticed()
            reasons = collectives.all_gather((str(reason), reason.exit_code, reason.status) if reason else None)
            for message, code, status in filter(None, reversed(reasons)):  # the first process's reason is set last, so it counts
                self.asked = Stopped(message, exit_code=code, status=status)
        return self.asked

    def noticed(self) -> Stopped | None:
        """The reason that this process itself has: the file, or the deadline."""
        if self.path.is_file():
            request = json.loads(self.path.read_text(encoding="utf-8"))
            return Stopped(request["said"], exit_code=request["exit_code"], status=request["status"])
        reason = super().get_stop_reason()
        self.asked = None
        return reason


@contextmanager
def handle_stop_file(path: Path) -> Iterator[None]:
    """Within the block, this process stops if the file exists."""
    signals.watcher = CollectiveWatcher(path)
    try:
        yield
    finally:
        signals.watcher = None
