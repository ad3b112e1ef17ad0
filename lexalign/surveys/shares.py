"""Count the shares of the options in each combination of a question and a group, and the respondents that were left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lexalign.errors import DataError
from lexalign.surveys.declaration import Group, Survey


@dataclass(frozen=True, kw_only=True)
class Combination:
    """The answers of one group to one question."""

    question: str
    group: str
    shares: list[float]
    """The shares of the options, in their order, with the sum 1."""
    people: int
    """The number of respondents behind the shares."""


@dataclass(kw_only=True)
class Census:
    """The combinations of a survey, and counts of what is not in them."""

    combinations: list[Combination] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """respondents, without_weight, in_no_group, missing_answers, other_answers, thin_combinations."""


def check_columns(survey: Survey, columns: Sequence[str]) -> None:
    """Raise DataError if the declaration names columns that the table does not have."""
    column_names = {*(question.column for question in survey.questions), *(group.column for group in survey.groups)}
    column_names |= {name for name in (survey.weight, survey.group_column) if name is not None}
    missing_columns = sorted(column_names - set(columns))
    if missing_columns:
        raise DataError(f"the table has no column {', '.join(missing_columns)}; it has {', '.join(map(str, columns))}")


def list_groups(survey: Survey, table: Any) -> list[Group]:
    """The declared groups, or one for each value of `group_column`."""
    column = survey.group_column
    if column is None:
        return survey.groups
    return [Group(text=str(value), column=column, values=[value]) for value in sorted(table[column].dropna().unique().tolist(), key=str)]


def count_shares(survey: Survey, table: Any, *, people: Callable[[Any], Any] | None = None) -> Census:
    """The shares of every combination with at least `minimum` people; `people` selects respondents of the table; None selects all.

    A respondent belongs to each group that lists the value of the respondent's column, and counts with its weight.
    """
    check_columns(survey, list(table.columns))
    census = Census(counts={"respondents": len(table)})
    if survey.weight is not None:
        has_weight = table[survey.weight] > 0
        census.counts["without_weight"] = int((~has_weight).sum())
        table = table[has_weight]
    if people is not None:
        table = people(table)
    groups = list_groups(survey, table)
    members = [table[group.column].isin(group.values) for group in groups]
    if members:
        is_in_group = members[0]
        for mask in members[1:]:
            is_in_group = is_in_group | mask
        census.counts["in_no_group"] = int((~is_in_group).sum())
    values = [option.value for option in survey.options]
    columns = [question.column for question in survey.questions]
    is_answered = {column: table[column].isin(values) for column in columns}
    census.counts["missing_answers"] = sum(int(table[column].isna().sum()) for column in columns)
    census.counts["other_answers"] = sum(int((~mask & table[column].notna()).sum()) for column, mask in is_answered.items())
    thin_count = 0
    for question in survey.questions:
        column = question.column
        for group, mask in zip(groups, members, strict=True):
            rows = table[mask & is_answered[column]]
            if len(rows) < survey.minimum:
                thin_count += 1
                continue
            weights = rows[survey.weight] if survey.weight is not None else None
            totals = [
                float(weights[rows[column] == value].sum()) if weights is not None else int((rows[column] == value).sum())
                for value in values
            ]
            total_weight = sum(totals)
            shares = [total / total_weight for total in totals]
            census.combinations.append(Combination(question=question.topic, group=group.text, shares=shares, people=len(rows)))
    census.counts["thin_combinations"] = thin_count
    if not census.combinations:
        raise DataError(f"no combination of a question and a group has {survey.minimum} people or more; lower `minimum`")
    return census
