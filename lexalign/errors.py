"""The errors a user can cause. Plain exceptions, because `SystemExit` in one job would end a whole multirun."""

from typing import Literal


def first_line(error: BaseException) -> str:
    """The first line of a library's message, which tends to be long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class LexAlignError(Exception):
    """Something the user can mend: the message says what was found, where, and what to type instead."""

    exit_code = 1


class ConfigError(LexAlignError):
    """Wrong settings; holds every problem found, so that all of them can be mended at once."""

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
    """A reward failed, or returned what is none: the message names the reward, the prompt and what to do."""

    exit_code = 8


class HubError(LexAlignError):
    """The hub refused, vanished or sent something damaged."""

    exit_code = 4


class ReferenceError(LexAlignError):
    """Policy and reference differ at step 0, so every reward would be measured from the wrong model."""


class NotFinite(LexAlignError):
    """A loss, a gradient or a weight is NaN or infinite, or the loss ran away: the message names the step and the rows."""

    exit_code = 5


class DiskFull(LexAlignError):
    """There is no room for what the run must write: the message says how much it needs, what there is, and where."""

    exit_code = 6


class FolderInUse(LexAlignError):
    """Another process writes to the run's folder: the message names it."""

    exit_code = 7


class WorkerFailed(LexAlignError):
    """One of a run's processes ended without an error of its own: the message says which and how."""

    exit_code = 9


class RendezvousFailed(LexAlignError):
    """The nodes of a run did not come together: the message says where and for how long, and what to type."""

    exit_code = 10


class Stopped(BaseException):
    """The run was told to stop. No Exception, as KeyboardInterrupt is none: nothing that mends errors may swallow it, and it ends a
    whole multirun."""

    def __init__(self, reason: str, *, exit_code: int, status: Literal["interrupted", "stopped", "paused", "pruned"]):
        super().__init__(reason)
        self.exit_code = exit_code
        self.status = status


class ArtifactError(LexAlignError):
    """What would be left on the disk is not the model that was trained."""
