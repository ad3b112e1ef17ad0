"""Rows: every way one can be wrong, and what holds of any of them."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from data_files import write
from hypothesis import given
from hypothesis import strategies as st

from lexalign.config.compose import compose
from lexalign.config.schema import Experiment
from lexalign.data import rows
from lexalign.data.columns import find_sft_shape, list_wanted_columns, suggest_column
from lexalign.data.rows import check_row, estimate_shares, get_prompt_key, hold_out
from lexalign.errors import DataError

BELIEFS = ["for", "against", "neither"]


DATA = SimpleNamespace(beliefs=BELIEFS, belief_format="{index}<{text}>")
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
BELIEVED = {**PAIR, "belief": "for", "rejected_belief": 1, "probabilities": [0.5, 0.25, 0.25]}
TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SAME = {name: name for name in ("text", "messages", "soft_label", "group", *BELIEVED)}


def check(row: dict[str, Any], needed: tuple[str, ...] = ("prompt", "chosen", "rejected")) -> dict[str, Any]:
    columns = {name: name for name in (*row, *needed) if name in SAME}
    return check_row(row, columns, list(needed), DATA, "here:7")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": None}, "'chosen' is null"),
        ({"chosen": 3}, "'chosen' is int (3), expected text"),
        ({"chosen": " \n"}, "'chosen' is empty"),
        ({"chosen": "half \ud83d"}, "'chosen' holds half a character ('\\ud83d' at 5); remove it"),
        ({"chosen": TURNS}, "'chosen' holds 2 turns, expected one answer; data.converter=lexalign.data.converters.last_turns splits them"),
        ({"rejected": "c", "rejected_belief": 0}, "chosen and rejected are the same"),
        ({"prompt": TURNS}, "'prompt' ends with an assistant turn; the response belongs to the other columns"),
        ({"prompt": []}, "'prompt' is no list of turns"),
        (
            {"prompt": [{"role": "bot", "content": "a"}]},
            "'prompt' turn 1 has the role 'bot'; known are system, developer, user, assistant, tool",
        ),
        ({"prompt": [{"role": "user", "content": ""}]}, "'prompt' turn 1 (user) has no text"),
        ({"prompt": [TURNS[0], TURNS[0]]}, "'prompt' turns 1 and 2 are both user's"),
        ({"prompt": ["a"]}, "'prompt' turn 1 has the role None"),
        ({"belief": "maybe"}, "'belief' is 'maybe', which is not in data.beliefs (for, against, neither)"),
        ({"belief": 3}, "'belief' is 3, but data.beliefs has the indices 0 to 2"),
        ({"belief": -1}, "'belief' is -1, but data.beliefs has the indices 0 to 2"),
        ({"belief": True}, "'belief' is True, which is not in data.beliefs"),
        ({"belief": "²"}, "'belief' is '²', which is not in data.beliefs"),
        ({"belief": "0<against>"}, "'belief' is '0<against>', which is not in data.beliefs"),
        ({"belief": {"id": 0, "text": "against"}}, "'belief' has the id 0 (for) and the text 'against'; they must name one belief"),
        ({"belief": {"id": 0}}, "'belief' is {'id': 0}, which is not in data.beliefs"),
        ({"belief": 1.0}, "'belief' is 1.0, which is not in data.beliefs"),
        ({"probabilities": [0.5, 0.5]}, "'probabilities' holds 2 shares, expected 3, one for each of data.beliefs"),
        ({"probabilities": "half"}, "'probabilities' is text, expected a list of shares"),
        ({"probabilities": [0.5, 0.5, 0.5]}, "'probabilities' sums to 1.5, expected 1 (within 0.001)"),
        ({"probabilities": [1.5, -0.5, 0]}, "'probabilities' holds -0.5, which is no share"),
        ({"probabilities": [float("nan"), 0.5, 0.5]}, "'probabilities' holds nan, which is no share"),
        ({"probabilities": [True, 0, 0]}, "'probabilities' holds True, which is no share"),
        ({"group": ""}, "'group' is empty"),
        ({"group": 1.5}, "'group' is float (1.5), expected text"),
        ({"soft_label": 1.2}, "'soft_label' is 1.2, expected a probability from 0 to 1"),
        ({"soft_label": -0.1}, "'soft_label' is -0.1, expected a probability"),
        ({"soft_label": float("nan")}, "'soft_label' is nan, expected a probability"),
        ({"soft_label": True}, "'soft_label' is True, expected a probability"),
        ({"soft_label": "often"}, "'soft_label' is 'often', expected a probability"),
        ({"messages": [TURNS[0]]}, "'messages' has no assistant turn, so there is nothing to train"),
        ({"messages": "hello"}, "'messages' is text, expected a list of turns with role and content"),
    ],
)
def test_a_bad_row_is_named_with_its_place_and_field(change, said):
    with pytest.raises(DataError) as caught:
        check({**BELIEVED, **change})
    assert str(caught.value).startswith("here:7: ") and said in str(caught.value)


def test_a_missing_column_is_named_with_the_nearest():
    with pytest.raises(DataError, match="here:7: has no column 'chosen'; it has prompt, chosn, rejected; type data.columns.chosen=chosn"):
        check({"prompt": "p", "chosn": "c", "rejected": "r"})
    assert suggest_column("chosen", "chosen", ["x"]) == "; type data.columns.chosen=<column>"


def test_good_rows_come_in_our_columns():
    assert check(BELIEVED) == {**BELIEVED, "belief": 0}
    assert check({**PAIR, "prompt": [TURNS[0]]})["prompt"] == [TURNS[0]]
    assert check({**PAIR, "chosen": [TURNS[1]]})["chosen"] == "b"
    assert check({"messages": json.dumps(TURNS)}, needed=())["messages"] == TURNS
    # Responses alike are a preference still where the beliefs before them differ.
    assert check({**BELIEVED, "rejected": "c"})["rejected"] == "c"
    renamed = check_row({"question": "q", "extra": 1}, {"prompt": "question"}, ["prompt"], DATA, "here")
    assert renamed == {"prompt": "q"}


@pytest.mark.parametrize(("index", "text"), list(enumerate(BELIEFS)))
def test_a_belief_is_the_same_as_text_as_index_as_digits_and_as_both(index, text):
    for value in (text, index, str(index), f"{index}<{text}>", {"id": index, "text": text}):
        assert check({**BELIEVED, "belief": value, "rejected_belief": value})["belief"] == index


def test_shares_may_come_as_json():
    assert check({**BELIEVED, "probabilities": "[1, 0, 0]"})["probabilities"] == [1.0, 0.0, 0.0]


def test_groups_have_shares_of_their_own():
    assert check({**BELIEVED, "group": 7})["group"] == "7"
    table = [{"prompt": "a", "belief": belief, "group": group} for belief, group in ((0, "x"), (0, "x"), (1, "y"), (0, "y"))]
    assert estimate_shares(table, 2) == 2
    assert [row["probabilities"] for row in table] == [[1, 0], [1, 0], [0.5, 0.5], [0.5, 0.5]]


def test_a_soft_label_may_come_as_text():
    assert check({**PAIR, "soft_label": "0.25"})["soft_label"] == 0.25 and check({**PAIR, "soft_label": 1})["soft_label"] == 1.0


# What holds of any rows.
PROMPTS = st.lists(st.text(max_size=3), min_size=2, max_size=40)


@given(prompts=PROMPTS, fraction=st.floats(0.01, 0.99), data=st.data())
def test_hold_out_parts_by_prompt_whatever_the_order(prompts, fraction, data):
    table = [{"prompt": prompt, "completion": str(number)} for number, prompt in enumerate(prompts)]
    train, held = hold_out(table, fraction)
    assert {row["prompt"] for row in train} & {row["prompt"] for row in held} == set()
    assert held and sorted(map(get_prompt_key, train + held)) == sorted(prompts)
    shuffled = data.draw(st.permutations(table))
    assert {row["prompt"] for row in hold_out(shuffled, fraction)[1]} == {row["prompt"] for row in held}


@given(choices=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=30))
def test_estimated_shares_are_frequencies(choices):
    table = [{"prompt": prompt, "belief": belief} for prompt, belief in choices]
    assert estimate_shares(table, 3) == len({prompt for prompt, _ in choices})
    for row in table:
        assert sum(row["probabilities"]) == pytest.approx(1)
        same = [belief for prompt, belief in choices if prompt == row["prompt"]]
        assert row["probabilities"] == [same.count(index) / len(same) for index in range(3)]


def test_given_shares_are_left_alone():
    table = [{"prompt": "a", "belief": 0, "probabilities": [0.1, 0.9]}, {"prompt": "b"}]
    assert estimate_shares(table, 2) == 0 and table[0]["probabilities"] == [0.1, 0.9] and "probabilities" not in table[1]


# Whole data sets.
@pytest.fixture(scope="module")
def gdpo() -> Experiment:
    return compose(["stage=align", "method=gdpo", "model=tiny"]).experiment


def on(experiment: Experiment, path: Path, **changes: Any) -> Experiment:
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, path=str(path), **changes))


def test_load_counts_what_happens(gdpo, tmp_path):
    table = [{"prompt": f"p{number // 2}", "chosen": "c", "rejected": "r", "belief": number % 6} for number in range(20)]
    file = write(tmp_path / "rows.jsonl", "jsonl", table)
    columns = dataclasses.replace(gdpo.data.columns, rejected_belief=None, probabilities=None)
    splits = rows.load_rows(on(gdpo, file, eval_split=None, eval_fraction=0.2, columns=columns))
    assert (splits.counts["train_rows"], splits.counts["held_out_rows"], splits.counts["shares_estimated"]) == (16, 4, 10)
    assert splits.counts["overlapping_prompts"] == 0 and all(sum(row["probabilities"]) == 1 for row in splits.train + splits.held_out)
    assert len(rows.load_rows(on(gdpo, file, eval_split=None, eval_fraction=0.5, columns=columns, limit=4)).train) == 2


def test_load_refuses_what_leaves_nothing(gdpo, tmp_path):
    one = write(tmp_path / "one.jsonl", "jsonl", [BELIEVED | {"belief": 0, "probabilities": [1, 0, 0, 0, 0, 0]}])
    with pytest.raises(DataError, match="all rows share one prompt.*type data.eval_fraction=null evaluate.enabled=false"):
        rows.load_rows(on(gdpo, one, eval_split=None, eval_fraction=0.5))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError, match="the split 'train' holds no rows"):
        rows.load_rows(on(gdpo, empty, eval_split=None))


def test_the_embedded_data_load_whole(gdpo):
    splits = rows.load_rows(gdpo)
    assert splits.counts["overlapping_prompts"] == splits.counts["shares_estimated"] == 0
    assert {row["belief"] for row in splits.train} == set(range(6))


def test_the_shape_of_sft_rows():
    experiment = compose([]).experiment
    assert find_sft_shape(experiment) == "prompt/completion" and list_wanted_columns(experiment) == {
        "prompt": "prompt",
        "completion": "completion",
    }


def test_a_converter_that_fails_names_the_row(gdpo, tmp_path):
    file = write(tmp_path / "rows.jsonl", "jsonl", [{"instruction": "a", "output": "b"}, {"output": "b"}])
    sft = compose(["data=alpaca"]).experiment
    with pytest.raises(DataError, match="rows.jsonl:2: the converter failed: KeyError: 'instruction'"):
        rows.load_rows(on(sft, file, format="auto"))
