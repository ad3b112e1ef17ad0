"""The base class of every reward."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class Reward:
    """Judges completions. Subclass it, best as a dataclass whose fields are the arguments given in `method.rewards`.

    A ValueError in its constructor is shown to the user as a wrong setting.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    """Columns (by our names) that it needs beside the prompt, for example ("completion",)."""

    def load(self, device: str) -> None:
        """Called once before the first call, with the device of the run (cpu, cuda, mps). Load models here."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[float]:
        """Return one finite number for each completion.

        Args:
            prompts: each completion's prompt, text or a list of turns, as the row has it.
            completions: what the model wrote, as text.
            columns: the rows' other columns by our names (`data.columns`), a value for each completion.
        """
        raise NotImplementedError
