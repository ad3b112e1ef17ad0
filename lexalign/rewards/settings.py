"""`method.rewards` as typed: names, weights and conditions, each problem with its key. Standard library only."""

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
    """One reward as listed: where it stands, what it is called, and the arguments of its class."""

    where: str
    name: str
    listed: ListedReward
    arguments: dict[str, Any]


def read_rewards(rewards: Sequence[Any], problems: list[str]) -> list[Entry]:
    """The rewards as listed; adds every problem to `problems` and leaves out the entries whose own keys are wrong."""
    found = []
    for at, node in enumerate(rewards):
        where = f"method.rewards[{at}]"
        if not isinstance(node, Mapping):
            problems.append(f"{where}={node}: expected a group, as in {{_target_: lexalign.rewards.ExactMatch, weight: 1.0}}")
            continue
        common = {"weight": 1.0, "name": None, "when": None, **{key: node[key] for key in COMMON if key in node}}
        listed = parse(ListedReward, common, where, problems)
        if listed is not None:
            own = {str(key): value for key, value in node.items() if key not in COMMON}
            found.append(Entry(where=where, name=listed.name or to_snake_case(listed.target), listed=listed, arguments=own))
    problems += find_wrong_names(found)
    problems += find_wrong_conditions(found)
    return found


def to_snake_case(target: str) -> str:
    """The name of a class in small letters: ExactMatch is exact_match."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", target.rpartition(".")[2]).lower()


def find_wrong_names(entries: Sequence[Entry]) -> list[str]:
    """Problems with names that metrics cannot carry or that stand for two rewards."""
    names = [entry.name for entry in entries]
    found = [f"{entry.where}.name={entry.name}: letters, digits, _ and - only" for entry in entries if not NAME.fullmatch(entry.name)]
    for at, entry in enumerate(entries):
        if entry.name in names[:at]:
            found.append(f"{entry.where}: is called {entry.name}, as {entries[names.index(entry.name)].where} is; give it another name=…")
    return found


def find_wrong_conditions(entries: Sequence[Entry]) -> list[str]:
    """Problems with conditions on rewards that are not there or that depend on each other, and with weights of 0."""
    by_name = {entry.name: entry for entry in entries}
    found = []
    for entry in entries:
        when = entry.listed.when
        if when is not None and when.reward not in by_name:
            found.append(f"{entry.where}.when.reward={when.reward}: there are {', '.join(by_name)}{suggest_nearest(when.reward, by_name)}")
        elif circle := find_circle(entry, by_name):
            found.append(f"{entry.where}.when: the rewards depend on each other ({' -> '.join(circle)}); take one condition away")
        needed = any(other.listed.when is not None and other.listed.when.reward == entry.name for other in entries)
        if entry.listed.weight == 0 and not needed:
            found.append(f"{entry.where}.weight=0: counts for nothing, and no other reward depends on it; leave the reward out")
    return found


def find_unnamed_columns(entry: Entry, reads: Sequence[str], columns: Columns) -> list[str]:
    """Problems with columns that a reward reads and the data are not said to have."""
    return [
        f"data.columns.{column}=null: {entry.where} ({entry.name}) reads it; "
        f"name your column with data.columns.{column}=<column>, or leave the reward out"
        for column in reads
        if getattr(columns, column, None) is None
    ]


def find_circle(entry: Entry, by_name: Mapping[str, Entry]) -> list[str]:
    """The names on the way from a reward back to itself through conditions; empty where there is none."""
    path = [entry.name]
    when = entry.listed.when
    while when is not None and when.reward in by_name:
        path.append(when.reward)
        if when.reward == entry.name:
            return path
        if when.reward in path[:-1]:
            return []  # a circle that others make; they are told
        when = by_name[when.reward].listed.when
    return []
