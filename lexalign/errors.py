"""Errors that a user can cause. They are plain exceptions, because `SystemExit` in one job would end a whole multirun."""

from typing import Literal


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class LexAlignError(Exception):
    """An error that the user can correct: the message says what is wrong, where, and what to type instead."""

    exit_code = 1


class ConfigError(LexAlignError):
    """Wrong settings. It holds every problem, so that all can be corrected at once."""

    exit_code = 2

    def __init__(self, problems: list[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(LexAlignError):
    """Bad data: the message names the file, the line and the field."""

    exit_code = 2


class OutOfMemory(LexAlignError):
    """The run needs more memory than there is: the message says how much, and which setting takes less."""

    exit_code = 3


class RewardError(LexAlignError):
    """A reward failed, or did not return numbers: the message names the reward, the prompt and what to do."""

    exit_code = 8


class HubError(LexAlignError):
    """The hub refused a request, did not answer, or sent damaged files."""

    exit_code = 4


class ReferenceError(LexAlignError):
    """Policy and reference differ at step 0, so every reward would be measured from the wrong model."""


class NotFinite(LexAlignError):
    """A loss, a gradient or a weight is NaN or infinite, or the loss diverged: the message names the step and the rows."""

    exit_code = 5


class DiskFull(LexAlignError):
    """The disk is full: the message says how much space the run needs, how much is free, and where."""

    exit_code = 6


class FolderInUse(LexAlignError):
    """Another process writes to the run's folder: the message names it."""

    exit_code = 7


class WorkerFailed(LexAlignError):
    """A process of the run ended without an error message: the message says which one and how."""

    exit_code = 9


class RendezvousFailed(LexAlignError):
    """The nodes of a run did not connect: the message says where, after how long, and what to type."""

    exit_code = 10


class Stopped(BaseException):
    """The run was asked to stop. As KeyboardInterrupt it is not an Exception, so that no error handler catches it. It ends a whole
    multirun."""

    def __init__(self, reason: str, *, exit_code: int, status: Literal["interrupted", "stopped", "paused", "pruned"]):
        super().__init__(reason)
        self.exit_code = exit_code
        self.status = status


class ArtifactError(LexAlignError):
    """The files on the disk would not be the model that was trained."""
