"""The base class of every reward."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class Reward:
    """Judges completions. Subclass it, best as a dataclass whose fields are the arguments in `method.rewards`.

    A ValueError in its constructor is shown to the user as a wrong setting.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    """Columns (by our names) that it needs in addition to the prompt, for example ("completion",)."""

    def load(self, device: str) -> None:
        """Load models. The run calls it once, before the first completions, with its device (cpu, cuda, mps)."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[float]:
        """Return one finite number for each completion.

        Args:
            prompts: the prompt of each completion, as text or as a list of turns, as in the row.
            completions: the texts that the model generated.
            columns: the other columns of the rows by our names (`data.columns`), with one value for each completion.
        """
        raise NotImplementedError
