"""The rewards of a run together: made, asked, held to what they promise, and conditioned on each other. No torch here."""

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from lexalign.config import hardware
from lexalign.config.schema import Experiment, RewardMethod
from lexalign.errors import ConfigError, RewardError
from lexalign.rewards.base import Reward
from lexalign.rewards.settings import Entry, find_unnamed_columns, read_rewards

LARGEST = 1e18
"""Above this the variance of a group does not fit float32."""
SHOWN = 80


class Member:
    """One reward of the panel."""

    def __init__(self, entry: Entry, reward: Reward):
        self.entry = entry
        self.reward = reward
        self.__name__ = entry.name
        """What TRL calls it in its metrics."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[float]:
        """The reward of each completion; raises RewardError where it fails or returns what is no reward."""
        try:
            found = self.reward(prompts, completions, columns)
        except Exception as error:
            at = self.first_failing(prompts, completions, columns)
            told = f"raised {type(error).__name__}: {error}"
            raise self.failure(told, prompts[at], completions[at], "mend it, or leave the row out of the data") from error
        if isinstance(found, (str, bytes)) or not isinstance(found, Sequence):
            told = f"returned {'None' if found is None else type(found).__name__}"
            raise self.failure(told, prompts[0], completions[0], "let it return a list of numbers")
        if len(found) != len(completions):
            told = f"returned {len(found)} numbers for {len(completions)} completions"
            raise self.failure(told, prompts[0], completions[0], "let it return one for each completion, in their order")
        for at, value in enumerate(found):
            if not isinstance(value, Real) or not math.isfinite(value) or abs(value) > LARGEST:
                told = f"returned {value!r}"
                what = f"let it return a finite number, at most {LARGEST:g} in size (0 where it has nothing to say)"
                raise self.failure(told, prompts[at], completions[at], what)
        return [float(value) for value in found]

    def first_failing(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> int:
        """The row at which it raises when it is asked one by one; the first one where it does so only on several."""
        for at in range(len(completions)):
            try:
                self.reward(prompts[at : at + 1], completions[at : at + 1], {name: values[at : at + 1] for name, values in columns.items()})
            except Exception:
                return at
        return 0

    def failure(self, told: str, prompt: Any, completion: str, what_to_do: str) -> RewardError:
        """The error, naming reward and row."""
        where = f"{self.entry.where} ({self.entry.name}, {self.entry.listed.target})"
        return RewardError(f"{where} {told} at the prompt {quote_text(prompt)} and the completion {quote_text(completion)}; {what_to_do}")


class Panel:
    """The rewards of `method.rewards`, in their order."""

    def __init__(self, members: Sequence[Member], *, device: str):
        self.members = list(members)
        self.device = device
        self.loaded = False

    @classmethod
    def of(cls, experiment: Experiment) -> "Panel | None":
        """The panel of an experiment, None where its method has no rewards; raises ConfigError where one cannot be made."""
        return cls.listed(experiment.method.rewards, experiment) if isinstance(experiment.method, RewardMethod) else None

    @classmethod
    def listed(cls, rewards: Sequence[Any], experiment: Experiment) -> "Panel":
        """The panel of these rewards, listed as in `method.rewards`, for the data and the device of an experiment; raises ConfigError."""
        problems: list[str] = []
        members = []
        for entry in read_rewards(rewards, problems):
            try:
                members.append(Member(entry, make_reward(entry)))
                problems += find_unnamed_columns(entry, members[-1].reward.reads, experiment.data.columns)
            except (ImportError, AttributeError, TypeError, ValueError) as error:
                problems.append(f"{entry.where} ({entry.listed.target}): {error}")
        if problems:
            raise ConfigError(problems)
        return cls(members, device=hardware.resolve_device(experiment.hardware.device))

    @property
    def names(self) -> list[str]:
        """What the rewards are called."""
        return [member.entry.name for member in self.members]

    @property
    def weights(self) -> list[float]:
        """Their weights."""
        return [member.entry.listed.weight for member in self.members]

    def score(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> dict[str, list[float]]:
        """Each reward of each completion, by name; 0 where its condition does not hold.

        `rows` are our rows, one for each completion.
        """
        if not self.loaded:
            for member in self.members:
                member.reward.load(self.device)
            self.loaded = True
        prompts = [row["prompt"] for row in rows]
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
        raw = {member.entry.name: member(prompts, completions, columns) for member in self.members}
        conditions = {member.entry.name: member.entry.listed.when for member in self.members}

        def counts(name: str, at: int) -> bool:
            when = conditions[name]
            return when is None or (counts(when.reward, at) and raw[when.reward][at] >= when.at_least)

        return {name: [value if counts(name, at) else 0.0 for at, value in enumerate(values)] for name, values in raw.items()}

    def total(self, values: Mapping[str, Sequence[float]]) -> list[float]:
        """The weighted sum of what `score` found, for each completion."""
        return [sum(map(float.__mul__, self.weights, row)) for row in zip(*(values[name] for name in self.names), strict=True)]


def make_reward(entry: Entry) -> Reward:
    """The reward that an entry describes; raises what its class raises."""
    module, _, name = entry.listed.target.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    if not (isinstance(cls, type) and issubclass(cls, Reward)):
        raise TypeError("is no subclass of lexalign.rewards.Reward; let it be one")
    return cls(**entry.arguments)


def quote_text(text: Any) -> str:
    """A prompt or completion, quoted and cut."""
    whole = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    return repr(whole if len(whole) <= SHOWN else whole[:SHOWN] + "…")
