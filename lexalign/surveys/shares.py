"""Shares of the options in each combination of a question and a group, from the respondents, with what was left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lexalign.errors import DataError
from lexalign.surveys.declaration import Group, Survey


@dataclass(frozen=True, kw_only=True)
class Combination:
    """A question as one group answers it."""

    question: str
    group: str
    shares: list[float]
    """Of the options, in their order; they add up to 1."""
    people: int
    """Respondents that the shares come from."""


@dataclass(kw_only=True)
class Census:
    """The combinations of a survey, and who is not in them."""

    combinations: list[Combination] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """respondents, without_weight, in_no_group, missing_answers, other_answers, thin_combinations."""


def check_columns(survey: Survey, columns: Sequence[str]) -> None:
    """Raise DataError for columns that the declaration names and the table does not have."""
    named = {*(question.column for question in survey.questions), *(group.column for group in survey.groups)}
    named |= {name for name in (survey.weight, survey.group_column) if name is not None}
    missing = sorted(named - set(columns))
    if missing:
        raise DataError(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, columns))}")


def list_groups(survey: Survey, table: Any) -> list[Group]:
    """The declared groups, or one for each value of `group_column`."""
    column = survey.group_column
    if column is None:
        return survey.groups
    return [Group(text=str(value), column=column, values=[value]) for value in sorted(table[column].dropna().unique().tolist(), key=str)]


def count_shares(survey: Survey, table: Any, *, people: Callable[[Any], Any] | None = None) -> Census:
    """The shares of every combination with at least `minimum` people; `people` picks respondents of the table, None takes all.

    A respondent belongs to each group whose column has one of its values, and counts with its weight.
    """
    check_columns(survey, list(table.columns))
    census = Census(counts={"respondents": len(table)})
    if survey.weight is not None:
        usable = table[survey.weight] > 0
        census.counts["without_weight"] = int((~usable).sum())
        table = table[usable]
    if people is not None:
        table = people(table)
    groups = list_groups(survey, table)
    members = [table[group.column].isin(group.values) for group in groups]
    if members:
        anywhere = members[0]
        for mask in members[1:]:
            anywhere = anywhere | mask
        census.counts["in_no_group"] = int((~anywhere).sum())
    values = [option.value for option in survey.options]
    columns = [question.column for question in survey.questions]
    answered = {column: table[column].isin(values) for column in columns}
    census.counts["missing_answers"] = sum(int(table[column].isna().sum()) for column in columns)
    census.counts["other_answers"] = sum(int((~mask & table[column].notna()).sum()) for column, mask in answered.items())
    thin = 0
    for question in survey.questions:
        column = question.column
        for group, mask in zip(groups, members, strict=True):
            rows = table[mask & answered[column]]
            if len(rows) < survey.minimum:
                thin += 1
                continue
            weights = rows[survey.weight] if survey.weight is not None else None
            totals = [
                float(weights[rows[column] == value].sum()) if weights is not None else int((rows[column] == value).sum())
                for value in values
            ]
            whole = sum(totals)
            shares = [total / whole for total in totals]
            census.combinations.append(Combination(question=question.topic, group=group.text, shares=shares, people=len(rows)))
    census.counts["thin_combinations"] = thin
    if not census.combinations:
        raise DataError(f"no combination of a question and a group has {survey.minimum} people or more; lower `minimum`")
    return census
