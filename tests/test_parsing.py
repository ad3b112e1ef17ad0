"""`lexalign.config.parsing`: a plain tree held against dataclasses, all problems at once."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from schema_walk import everything

from lexalign.config.parsing import OTHER_NAMES, Range, describe_unknown_key, parse, suggest_nearest


@dataclass(frozen=True, kw_only=True)
class Inner:
    target: str
    names: list[str]


@dataclass(frozen=True, kw_only=True)
class Sample:
    whole: int
    share: Annotated[float, Range(above=0, below=1)]
    count: Annotated[int, Range(least=1, most=9)] | None
    flag: bool
    text: str
    word: Literal["auto", "never"]
    either: list[str] | Literal["auto"] | None
    inner: Inner
    anything: Any


GOOD = {
    "whole": 3,
    "share": 0.5,
    "count": None,
    "flag": False,
    "text": "x",
    "word": "auto",
    "either": ["a"],
    "inner": {"_target_": "a.b", "names": []},
    "anything": {"a": [1]},
}


def problems(**changes: Any) -> list[str]:
    found: list[str] = []
    assert (parse(Sample, {**GOOD, **changes}, "", found) is None) == bool(found)
    return found


def test_good_values_arrive_as_they_are():
    parsed = parse(Sample, GOOD, "", [])
    assert parsed is not None and parsed.inner == Inner(target="a.b", names=[]) and parsed.either == ["a"] and parsed.anything == {"a": [1]}


def test_a_whole_number_is_a_number_too():
    assert parse(Inner, {"_target_": "a", "names": ["b"]}, "", []) == Inner(target="a", names=["b"])
    found: list[str] = []
    parsed = parse(Sample, {**GOOD, "share": 0.25, "count": 9, "either": "auto"}, "", found)
    assert found == [] and parsed is not None and (parsed.count, parsed.either) == (9, "auto")


WRONG = {
    "whole": [1.0, 1.5, "3", True, None, [3], {}, ""],
    "share": [0, 1, 1.0, -0.5, "0.5", True, None, [0.5], math.nan, math.inf, -math.inf],
    "count": [0, 10, 1.0, "1", True, [1], {}],
    "flag": [0, 1, "true", "yes", None, []],
    "text": [1, 1.5, True, None, ["x"], {}],
    "word": ["Auto", "nevr", "", None, True, 0, ["auto"]],
    "either": ["automatic", 1, True, [1], ["a", None], {}],
    "inner": [None, "a.b", 1, []],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_wrong_value_is_one_problem_that_names_its_key(key, value):
    (problem,) = problems(**{key: value})
    assert problem.startswith(key) and problem[len(key)] in "=:[" and len(problem) < 120


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"whole": "x"}, "whole=x: expected a whole number, found text 'x'"),
        ({"whole": 1.5}, "whole=1.5: expected a whole number, found a number"),
        ({"flag": 1}, "flag=1: expected true or false, found a whole number"),
        ({"share": 1}, "share=1: must be above 0 and below 1"),
        ({"count": 10}, "count=10: must be at least 1 and at most 9"),
        ({"share": math.nan}, "share=nan: must be a finite number"),
        ({"text": 3}, "text=3: expected text, found a whole number; quote it to have text: text='\"3\"'"),
        ({"text": None}, "text=null: expected text, found null"),
        ({"word": "nevr"}, "word=nevr: not one of auto, never; did you mean never?"),
        ({"either": "q_proj"}, "either=q_proj: not one of auto; or a list, as in either=[q_proj]"),
        ({"either": [1]}, "either[0]=1: expected text, found a whole number; quote it to have text: either[0]='\"1\"'"),
        ({"inner": None}, "inner=null: expected a group of settings, found null"),
        ({"inner": {"_target_": "a.b", "names": "x"}}, "inner.names=x: expected a list, as in inner.names=[x], found text 'x'"),
        ({"inner": {"names": []}}, "inner._target_: missing; give it with inner._target_=…"),
        ({"whole": "???"}, "whole: missing; give it with whole=…"),
        ({"shar": 1}, "shar: unknown setting; did you mean share?"),
        ({"inner": {"_target_": "a", "names": [], "nams": []}}, "inner.nams: unknown setting; did you mean inner.names?"),
    ],
)
def test_the_problem_says_what_to_type(changes, expected):
    assert problems(**changes) == [expected]


def test_every_problem_at_once():
    found = problems(whole="x", share=2, flag=None, inner={"_target_": 1, "names": [1, 2]}, extra=1)
    keys = {problem.split("=")[0].split(":")[0] for problem in found}
    assert keys == {"whole", "share", "flag", "inner._target_", "inner.names[0]", "inner.names[1]", "extra"}


def test_a_tree_that_is_no_tree():
    found: list[str] = []
    assert parse(Sample, [1], "here", found) is None and found == ["here=[1]: expected a group of settings, found a list"]


def test_a_knobs_class_takes_the_place_of_the_declared_one():
    @dataclass(frozen=True, kw_only=True)
    class More(Inner):
        beta: float

    found: list[str] = []
    parsed = parse(Sample, {**GOOD, "inner": {"_target_": "a", "names": [], "beta": 1}}, "", found, {"inner": More})
    assert found == [] and parsed is not None and parsed.inner == More(target="a", names=[], beta=1.0)


def test_names_from_elsewhere_lead_to_settings_that_exist():
    assert set(OTHER_NAMES.values()) - {"tracking"} <= set(everything())
    assert describe_unknown_key("train.lr", ["train.learning_rate"]) == "train.lr: unknown setting; here it is train.learning_rate"


def test_nearest():
    assert suggest_nearest("cosin", ["linear", "cosine"]) == "; did you mean cosine?"
    assert suggest_nearest("zzz", ["linear"]) == ""
