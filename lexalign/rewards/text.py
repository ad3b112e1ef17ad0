"""Rewards that need only the text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from lexalign.config.parsing import Range
from lexalign.rewards.base import Reward
from lexalign.rewards.reasoning import strip_reasoning


@dataclass(frozen=True, kw_only=True)
class ExactMatch(Reward):
    """1 if the completion equals the row's answer (column `completion`), without surrounding white space and reasoning; else 0."""

    reads = ("completion",)

    ignore_case: bool = False
    """Whether upper and lower case are equal."""
    strip_reasoning: bool = True
    """Compare without the reasoning in front of an answer (`<think>…</think>`)."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[float]:
        return [
            float(self.normalize(completion) == self.normalize(reference))
            for completion, reference in zip(completions, columns["completion"], strict=True)
        ]

    def normalize(self, text: str) -> str:
        """Return a text in the form that is compared."""
        text = strip_reasoning(text) if self.strip_reasoning else text
        return text.strip().casefold() if self.ignore_case else text.strip()


@dataclass(frozen=True, kw_only=True)
class Length(Reward):
    """The length of the completion: 1 up to `cap` and 0 above it; or 1 at `target`, falling to 0 at length 0 and at twice the target.

    Without either it is the length itself. Longer is then better, or shorter with a negative weight.
    """

    cap: Annotated[int, Range(least=1)] | None = None
    """Longest completion that gets 1."""
    target: Annotated[int, Range(least=1)] | None = None
    """Best length: 1 - |length - target| / target, not below 0."""
    unit: Literal["words", "characters"] = "words"
    """Unit of the length. Words are separated by white space."""

    def __post_init__(self) -> None:
        if self.cap is not None and self.target is not None:
            raise ValueError("cap and target exclude each other; leave one of them out")

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[float]:
        return [self.score_length(len(text.split()) if self.unit == "words" else len(text.strip())) for text in completions]

    def score_length(self, length: int) -> float:
        """Return the reward of a length."""
        if self.cap is not None:
            return float(length <= self.cap)
        return float(length) if self.target is None else max(0.0, 1 - abs(length - self.target) / self.target)


@dataclass(frozen=True, kw_only=True)
class Format(Reward):
    """1 if the completion matches a pattern, else 0."""

    pattern: str
    """A Python regular expression. `.` also matches line breaks."""
    whole: bool = True
    """Whether the pattern must match the whole completion (without surrounding white space), or only a part of it."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern={self.pattern}: is not a regular expression ({error})") from error

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[float]:
        pattern = re.compile(self.pattern, re.DOTALL)
        match = pattern.fullmatch if self.whole else pattern.search
        return [float(match(text.strip()) is not None) for text in completions]
