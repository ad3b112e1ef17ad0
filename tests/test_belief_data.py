"""Rows with beliefs: as GDPO's authors store them, as survey shares by country, and what is said of beliefs that hardly occur."""

import dataclasses
import json
import logging
from typing import Any

import pytest
from data_files import write

from lexalign.config.compose import compose
from lexalign.config.schema import Experiment
from lexalign.data import rows
from lexalign.data.converters import LETTERS, ConvertedRows, global_opinions, group_beliefs
from lexalign.errors import DataError

AUTHORS = {"prompt": "q", "accept_choice": "for", "accept_choice_id": 0, "accept_response": "a", "reject_choice": "against",
           "reject_choice_id": 1, "reject_response": "b", "probabilities": [0.7, 0.3]}  # fmt: skip
SURVEY = {
    "question": "Do you think the old bridge should be kept?",
    "selections": "defaultdict(<class 'list'>, {'Thornby': [0.62, 0.3, 0.08], 'Willowmere (towns)': [0.21, 0.78, 0.02]})",
    "options": "['Yes', 'No', \"Don't know\"]",
    "source": "GAS",
}
"""A made-up row, every field written as the hub has it."""


@pytest.fixture(scope="module")
def gdpo() -> Experiment:
    return compose(["stage=align", "method=gdpo", "model=tiny", "data=beliefs", "data.path=embedded:tiny_beliefs",
                    "data.beliefs=[for,against]"]).experiment  # fmt: skip


def load(experiment: Experiment, **changes: Any) -> rows.Splits:
    return rows.load_rows(dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **changes)))


# As GDPO's authors store them.
def test_the_layout_of_gdpos_authors(gdpo, tmp_path):
    file = write(tmp_path / "rows.jsonl", "jsonl", [AUTHORS])
    wanted = {"prompt": "q", "chosen": "a", "rejected": "b", "belief": 0, "rejected_belief": 1, "probabilities": [0.7, 0.3]}
    settings = {"path": str(file), "converter": "lexalign.data.converters.group_beliefs", "eval_split": None, "eval_fraction": None}
    assert load(gdpo, **settings).train == [wanted]
    for left in ("_id", ""):
        kept = {key: value for key, value in AUTHORS.items() if key not in (f"accept_choice{left}", f"reject_choice{left}")}
        assert load(gdpo, **settings | {"path": str(write(tmp_path / "half.jsonl", "jsonl", [kept]))}).train == [wanted]
    assert "probabilities" not in group_beliefs({key: value for key, value in AUTHORS.items() if key != "probabilities"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accept_choice": "against"}, "'belief' has the id 0 (for) and the text 'against'; they must name one belief"),
        ({"reject_choice_id": 0}, "'rejected_belief' has the id 0 (for) and the text 'against'; they must name one belief"),
        ({"accept_choice_id": 2}, "'belief': id is 2, but data.beliefs has the indices 0 to 1"),
        ({"accept_choice": "maybe"}, "'belief': text is 'maybe', which is not in data.beliefs (for, against)"),
    ],
)
def test_an_id_and_a_text_that_disagree_are_refused_with_the_row(gdpo, tmp_path, change, said):
    file = write(tmp_path / "rows.jsonl", "jsonl", [AUTHORS, AUTHORS | change])
    with pytest.raises(DataError) as caught:
        load(gdpo, path=str(file), converter="lexalign.data.converters.group_beliefs", eval_split=None)
    assert str(caught.value) == f"{file}:2: {said}"


# Shares by country.
def test_a_survey_row_becomes_a_row_for_each_country():
    made = global_opinions(SURVEY)
    assert isinstance(made, ConvertedRows) and (len(made.rows), made.left_out, made.rescaled) == (2, 0, 1)
    first, second = made.rows
    assert first["prompt"] == (
        "How would someone from Thornby answer this question?\n\nDo you think the old bridge should be kept?\nA. Yes\nB. No\nC. Don't know"
    )
    assert (first["group"], second["group"]) == ("Thornby", "Willowmere (towns)")
    assert first["probabilities"] == pytest.approx([0.62, 0.3, 0.08] + [0] * 8)
    assert second["probabilities"] == pytest.approx([0.21 / 1.01, 0.78 / 1.01, 0.02 / 1.01] + [0] * 8)
    options = ["Yes", "No", "Don't know"]
    for row in made.rows:
        assert row["belief"] != row["rejected_belief"]
        assert (row["chosen"], row["rejected"]) == (options[row["belief"]], options[row["rejected_belief"]])
    plain = {**SURVEY, "options": options, "selections": {"Thornby": [0.62, 0.3, 0.08], "Willowmere (towns)": [0.21, 0.78, 0.02]}}
    assert global_opinions(plain) == made, "lists and dicts need no quotes, and the draw is the row's own"


def test_chosen_options_follow_the_shares():
    asked = {f"village {number}": [0.7, 0.3, 0.0] for number in range(2000)}
    made = global_opinions({**SURVEY, "selections": asked})
    assert isinstance(made, ConvertedRows)
    chosen = [row["belief"] for row in made.rows]
    assert chosen.count(0) / 2000 == pytest.approx(0.7, abs=0.04) and 2 not in chosen
    assert {row["rejected_belief"] for row in made.rows} == {0, 1}, "nobody holds the third, so it stands against nobody"
    alone = global_opinions({**SURVEY, "selections": {f"village {number}": [1, 0, 0] for number in range(100)}})
    assert isinstance(alone, ConvertedRows) and {row["rejected_belief"] for row in alone.rows} == {1, 2}


@pytest.mark.parametrize(
    ("shares", "kept"),
    [([0.6, 0.39, 0.0], 1), ([0.6, 0.3, 0.05], 0), ([0.6, 0.4], 0), ([1.2, -0.2, 0], 0), ([0, 0, 0], 0), ([float("nan"), 0.5, 0.5], 0)],
)
def test_shares_that_are_none_are_left_out_and_counted(shares, kept):
    made = global_opinions({**SURVEY, "selections": {"Thornby": shares}})
    assert isinstance(made, ConvertedRows) and (len(made.rows), made.left_out) == (kept, 1 - kept)


@pytest.mark.parametrize(
    "change",
    [{"question": None}, {"question": " "}, {"options": "['Yes']"}, {"options": [str(number) for number in range(12)]},
     {"options": "['Yes', 'Yes', 'No']"}, {"options": "['Yes', '', 'No']"}],
)  # fmt: skip
def test_questions_that_cannot_be_mapped_are_left_out(change):
    assert global_opinions({**SURVEY, **change}) is None


def test_survey_rows_load_with_everything_counted(tmp_path, caplog):
    table = [SURVEY, {**SURVEY, "question": None}, {**SURVEY, "question": "And the mill?", "selections": "{'Thornby': [0.5, 0.1, 0.1]}"}]
    survey = compose(["stage=align", "method=gdpo", "model=tiny", "data=global_opinions", "data.format=auto",
                      f"data.path={write(tmp_path / 'rows.csv', 'csv', table)}", "data.eval_fraction=0.5"]).experiment  # fmt: skip
    assert survey.data.beliefs == list(LETTERS)
    with caplog.at_level(logging.WARNING):
        splits = rows.load_rows(survey)
    assert len(splits.train) == len(splits.held_out) == 1 and {row["group"] for row in splits.train + splits.held_out} == {
        "Thornby", "Willowmere (towns)",
    }  # fmt: skip
    assert (splits.counts["left_out_by_converter"], splits.counts["shares_rescaled"]) == (2, 1)
    assert (
        "2 rows were left out by data.converter" in caplog.text and "Target shares of 1 rows sum to 1 only within rounding" in caplog.text
    )
    bad = write(tmp_path / "bad.jsonl", "jsonl", [SURVEY, {**SURVEY, "selections": "{'Thornby': [nan, 1]"}])
    with pytest.raises(DataError, match="bad.jsonl:2: the converter failed"):
        load(survey, path=str(bad))


# Converters of one's own.
def two_of_one(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**row, "prompt": f"{row['prompt']} {number}"} for number in (1, 2)]


def no_row(row: dict[str, Any]) -> Any:
    return json.dumps(row)


def test_a_converter_may_return_a_list_and_nothing_else(gdpo, tmp_path, monkeypatch):
    row = {"prompt": "p", "chosen": "c", "rejected": "r", "belief": 0}
    file = write(tmp_path / "rows.jsonl", "jsonl", [row, {**row, "belief": 9}])
    monkeypatch.setattr(rows, "get_method", lambda path: {"two": two_of_one, "none": no_row}[path])
    settings: dict[str, Any] = {"path": str(file), "eval_split": None, "eval_fraction": None}
    assert [found["prompt"] for found in load(gdpo, **settings, converter="two", limit=2).train] == ["p 1", "p 2"]
    with pytest.raises(DataError, match=r"rows.jsonl:2 \(1 of 2\): 'belief' is 9"):
        load(gdpo, **settings, converter="two")
    with pytest.raises(DataError, match="rows.jsonl:1: the converter returned str; it must return a row, a list of rows, or None"):
        load(gdpo, **settings, converter="none")


# Beliefs that hardly occur, rows that occur twice.
def test_a_belief_in_one_row_and_a_repeated_row_are_named(gdpo, tmp_path, caplog):
    row = {"prompt": "p", "chosen": "c", "rejected": "r", "belief": "for"}
    file = write(tmp_path / "rows.jsonl", "jsonl", [row, {**row, "belief": "against"}, row, row])
    with caplog.at_level(logging.WARNING):
        splits = load(gdpo, path=str(file), eval_split=None, eval_fraction=None)
    assert (splits.counts["train_beliefs_in_one_row"], splits.counts["train_rows_repeated"]) == (1, 2)
    assert f"The belief 1 (against) stands in one row only ({file}:2)" in caplog.text
    assert f"2 rows of the split 'train' repeat an earlier one (first: {file}:3 repeats {file}:1)" in caplog.text
