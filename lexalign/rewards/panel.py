"""Make, call and check all rewards of a run, and apply the conditions between them. No torch."""

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
"""Largest reward: above it, the variance of a group overflows float32."""
SHOWN = 80


class Member:
    """One reward of the panel."""

    def __init__(self, entry: Entry, reward: Reward):
        self.entry = entry
        self.reward = reward
        self.__name__ = entry.name
        """The name that TRL uses in its metrics."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[float]:
        """Return the reward of each completion. Raises RewardError if the reward fails or does not return numbers."""
        try:
            values = self.reward(prompts, completions, columns)
        except Exception as error:
            row = self.find_failing_row(prompts, completions, columns)
            problem = f"raised {type(error).__name__}: {error}"
            raise self.make_error(problem, prompts[row], completions[row], "correct it, or leave the row out of the data") from error
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
            problem = f"returned {'None' if values is None else type(values).__name__}"
            raise self.make_error(problem, prompts[0], completions[0], "let it return a list of numbers")
        if len(values) != len(completions):
            problem = f"returned {len(values)} numbers for {len(completions)} completions"
            raise self.make_error(problem, prompts[0], completions[0], "let it return one for each completion, in their order")
        for row, value in enumerate(values):
            if not isinstance(value, Real) or not math.isfinite(value) or abs(value) > LARGEST:
                problem = f"returned {value!r}"
                advice = f"let it return a finite number, at most {LARGEST:g} in size (0 where it has nothing to say)"
                raise self.make_error(problem, prompts[row], completions[row], advice)
        return [float(value) for value in values]

    def find_failing_row(self, prompts: Sequence[Any], completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> int:
        """Call the reward row by row and return the first row that fails; 0 if it fails only on several rows together."""
        for row in range(len(completions)):
            try:
                self.reward(
                    prompts[row : row + 1], completions[row : row + 1], {name: values[row : row + 1] for name, values in columns.items()}
                )
            except Exception:
                return row
        return 0

    def make_error(self, problem: str, prompt: Any, completion: str, what_to_do: str) -> RewardError:
        """Make the error that names the reward and the row."""
        where = f"{self.entry.where} ({self.entry.name}, {self.entry.listed.target})"
        return RewardError(
            f"{where} {problem} at the prompt {quote_text(prompt)} and the completion {quote_text(completion)}; {what_to_do}"
        )


class Panel:
    """The rewards of `method.rewards`, in their order."""

    def __init__(self, members: Sequence[Member], *, device: str):
        self.members = list(members)
        self.device = device
        self.loaded = False

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> "Panel | None":
        """Make the panel of an experiment; None if its method has no rewards. Raises ConfigError if a reward cannot be made."""
        return cls.from_settings(experiment.method.rewards, experiment) if isinstance(experiment.method, RewardMethod) else None

    @classmethod
    def from_settings(cls, rewards: Sequence[Any], experiment: Experiment) -> "Panel":
        """Make the panel of `rewards` (in the form of `method.rewards`) for an experiment's data and device. Raises ConfigError."""
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
        """The names of the rewards."""
        return [member.entry.name for member in self.members]

    @property
    def weights(self) -> list[float]:
        """The weights of the rewards, in the same order."""
        return [member.entry.listed.weight for member in self.members]

    def score(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> dict[str, list[float]]:
        """Return each reward of each completion by name; 0 if its condition does not hold.

        `rows` holds one row for each completion.
        """
        if not self.loaded:
            for member in self.members:
                member.reward.load(self.device)
            self.loaded = True
        prompts = [row["prompt"] for row in rows]
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
        raw_values = {member.entry.name: member(prompts, completions, columns) for member in self.members}
        conditions = {member.entry.name: member.entry.listed.when for member in self.members}

        def counts(name: str, row: int) -> bool:
            condition = conditions[name]
            return condition is None or (counts(condition.reward, row) and raw_values[condition.reward][row] >= condition.at_least)

        return {name: [value if counts(name, row) else 0.0 for row, value in enumerate(values)] for name, values in raw_values.items()}

    def total(self, values: Mapping[str, Sequence[float]]) -> list[float]:
        """Return the weighted sum of the rewards for each completion. `values` is the result of `score`."""
        return [sum(map(float.__mul__, self.weights, row)) for row in zip(*(values[name] for name in self.names), strict=True)]


def make_reward(entry: Entry) -> Reward:
    """Make the reward that an entry describes. Errors of its class pass through."""
    module, _, name = entry.listed.target.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    if not (isinstance(cls, type) and issubclass(cls, Reward)):
        raise TypeError("is not a subclass of lexalign.rewards.Reward; make it one")
    return cls(**entry.arguments)


def quote_text(text: Any) -> str:
    """Quote a prompt or completion, cut to at most SHOWN characters."""
    whole = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    return repr(whole if len(whole) <= SHOWN else whole[:SHOWN] + "…")
