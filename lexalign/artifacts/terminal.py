"""What a run prints: a closed or full terminal silences it and never ends the run; without a terminal, progress is plain lines."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


class TolerantStream:
    """A text stream that is silent from the first error of its file on. All else is the stream's own."""

    def __init__(self, stream: Any, name: str):
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        """Write a text, if the file still takes it; return its length."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write lines, if the file still takes them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, if the file still takes it."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except BlockingIOError:
            pass  # a reader that is slow for a moment: this text is lost, the next may not be
        except OSError as error:
            self._silence(error)

    def _silence(self, error: OSError) -> None:
        """Send what is still held, and what follows, nowhere: Python would try to write it again at its end."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        log.warning("%s cannot be written any more (%s); the run goes on, its messages are in its log files", self._name, error.strerror)


def outlive_terminal() -> None:
    """From now on, what this process prints is lost where its terminal, pipe or file is closed or full, and nothing else is."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before Python began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif not isinstance(stream, TolerantStream):
            setattr(sys, name, TolerantStream(stream, name))


def has_progress_bars() -> bool:
    """Whether progress is shown as bars: on a terminal, unless CI is set. Elsewhere it is plain lines."""
    return not os.environ.get("CI") and sys.stderr is not None and sys.stderr.isatty()
