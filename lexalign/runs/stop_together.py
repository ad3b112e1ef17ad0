"""Stopping together: what one process is asked, or notices, all of them do after the same step."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lexalign.distributed import collectives
from lexalign.errors import Stopped
from lexalign.training import signals


class CollectiveWatcher(signals.Watcher):
    """Asked through a file by the process that started this one. All processes call `get_stop_reason` at the same points of the loop."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def get_stop_reason(self) -> Stopped | None:
        """Why to stop after this step, whichever of them was asked to; None where nothing asks for it."""
        if self.asked is None:
            reason = self.noticed()
            reasons = collectives.all_gather((str(reason), reason.exit_code, reason.status) if reason else None)
            for message, code, status in filter(None, reversed(reasons)):  # the first one's word is the last
                self.asked = Stopped(message, exit_code=code, status=status)
        return self.asked

    def noticed(self) -> Stopped | None:
        """What this process itself knows: the file, or the deadline."""
        if self.path.is_file():
            request = json.loads(self.path.read_text(encoding="utf-8"))
            return Stopped(request["said"], exit_code=request["exit_code"], status=request["status"])
        reason = super().get_stop_reason()
        self.asked = None
        return reason


@contextmanager
def handle_stop_file(path: Path) -> Iterator[None]:
    """Within the block, this process stops as it is asked in a file."""
    signals.watcher = CollectiveWatcher(path)
    try:
        yield
    finally:
        signals.watcher = None
