"""Read `method.rewards`: names, weights and conditions. Each problem names its key. Standard library only."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lexalign.config.parsing import parse, suggest_nearest
from lexalign.config.schema import Columns, ListedReward

COMMON = ("_target_", "weight", "name", "when")
NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of `method.rewards`: its key, its name, and the arguments of its class."""

    where: str
    name: str
    listed: ListedReward
    arguments: dict[str, Any]


def read_rewards(rewards: Sequence[Any], problems: list[str]) -> list[Entry]:
    """Read the entries. Every problem is added to `problems`. An entry with wrong keys is left out."""
    entries = []
    for number, node in enumerate(rewards):
        where = f"method.rewards[{number}]"
        if not isinstance(node, Mapping):
            problems.append(f"{where}={node}: expected a group, as in {{_target_: lexalign.rewards.ExactMatch, weight: 1.0}}")
            continue
        common_keys = {"weight": 1.0, "name": None, "when": None, **{key: node[key] for key in COMMON if key in node}}
        settings = parse(ListedReward, common_keys, where, problems)
        if settings is not None:
            arguments = {str(key): value for key, value in node.items() if key not in COMMON}
            entries.append(Entry(where=where, name=settings.name or to_snake_case(settings.target), listed=settings, arguments=arguments))
    problems += find_wrong_names(entries)
    problems += find_wrong_conditions(entries)
    return entries


def to_snake_case(target: str) -> str:
    """Return the name of a class in snake case: ExactMatch is exact_match."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", target.rpartition(".")[2]).lower()


def find_wrong_names(entries: Sequence[Entry]) -> list[str]:
    """Return the problems of names: unusable in metrics, or used twice."""
    names = [entry.name for entry in entries]
    problems = [f"{entry.where}.name={entry.name}: letters, digits, _ and - only" for entry in entries if not NAME.fullmatch(entry.name)]
    for number, entry in enumerate(entries):
        if entry.name in names[:number]:
            problems.append(
                f"{entry.where}: is called {entry.name}, as {entries[names.index(entry.name)].where} is; give it another name=…"
            )
    return problems


def find_wrong_conditions(entries: Sequence[Entry]) -> list[str]:
    """Return the problems of conditions (unknown or circular) and of weights of 0."""
    by_name = {entry.name: entry for entry in entries}
    problems = []
    for entry in entries:
        condition = entry.listed.when
        if condition is not None and condition.reward not in by_name:
            problems.append(
                f"{entry.where}.when.reward={condition.reward}: there are {', '.join(by_name)}{suggest_nearest(condition.reward, by_name)}"
            )
        elif circle := find_circle(entry, by_name):
            problems.append(f"{entry.where}.when: the rewards depend on each other ({' -> '.join(circle)}); remove one condition")
        is_needed = any(other.listed.when is not None and other.listed.when.reward == entry.name for other in entries)
        if entry.listed.weight == 0 and not is_needed:
            problems.append(f"{entry.where}.weight=0: has no effect, and no other reward depends on it; leave the reward out")
    return problems


def find_unnamed_columns(entry: Entry, reads: Sequence[str], columns: Columns) -> list[str]:
    """Return the problems of columns that a reward reads and `data.columns` does not name."""
    return [
        f"data.columns.{column}=null: {entry.where} ({entry.name}) reads it; "
        f"name your column with data.columns.{column}=<column>, or leave the reward out"
        for column in reads
        if getattr(columns, column, None) is None
    ]


def find_circle(entry: Entry, by_name: Mapping[str, Entry]) -> list[str]:
    """Return the names on a circle of conditions through a reward; empty if there is none."""
    path = [entry.name]
    condition = entry.listed.when
    while condition is not None and condition.reward in by_name:
        path.append(condition.reward)
        if condition.reward == entry.name:
            return path
        if condition.reward in path[:-1]:
            return []  # this circle has only other rewards and is reported for them
        condition = by_name[condition.reward].listed.when
    return []
