"""Rewards read off the text alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from lexalign.config.parsing import Range
from lexalign.rewards.base import Reward
from lexalign.rewards.reasoning import strip_reasoning


@dataclass(frozen=True, kw_only=True)
class ExactMatch(Reward):
    """1 where the completion is the row's right answer (column `completion`), surrounding white space and reasoning aside, else 0."""

    reads = ("completion",)

    ignore_case: bool = False
    """Whether capital and small letters are the same."""
    strip_reasoning: bool = True
    """Compare without the reasoning in front of an answer (`<think>…</think>`)."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[float]:
        return [float(self.plain(said) == self.plain(right)) for said, right in zip(completions, columns["completion"], strict=True)]

    def plain(self, text: str) -> str:
        """A text as it is compared."""
        text = strip_reasoning(text) if self.strip_reasoning else text
        return text.strip().casefold() if self.ignore_case else text.strip()


@dataclass(frozen=True, kw_only=True)
class Length(Reward):
    """The length of the completion: 1 up to `cap` and 0 above it; or 1 at `target`, falling to 0 at none and at twice as much.

    Without either it is the length itself, so that longer is better (with a negative weight, shorter).
    """

    cap: Annotated[int, Range(least=1)] | None = None
    """Longest that counts."""
    target: Annotated[int, Range(least=1)] | None = None
    """Best length: 1 - |length - target| / target, not below 0."""
    unit: Literal["words", "characters"] = "words"
    """What is counted; words are what white space separates."""

    def __post_init__(self) -> None:
        if self.cap is not None and self.target is not None:
            raise ValueError("cap and target are two ways to judge a length; leave one of them out")

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[float]:
        return [self.of(len(text.split()) if self.unit == "words" else len(text.strip())) for text in completions]

    def of(self, length: int) -> float:
        """The reward of a length."""
        if self.cap is not None:
            return float(length <= self.cap)
        return float(length) if self.target is None else max(0.0, 1 - abs(length - self.target) / self.target)


@dataclass(frozen=True, kw_only=True)
class Format(Reward):
    """1 where the completion has a form, else 0."""

    pattern: str
    """A regular expression of Python's; `.` matches line breaks too."""
    whole: bool = True
    """Whether it must match the whole completion (surrounding white space aside), or some part of it."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern={self.pattern}: is no regular expression ({error})") from error

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[float]:
        pattern = re.compile(self.pattern, re.DOTALL)
        found = pattern.fullmatch if self.whole else pattern.search
        return [float(found(text.strip()) is not None) for text in completions]
