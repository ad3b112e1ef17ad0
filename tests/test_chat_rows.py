"""Rows of conversations: what turns may say, how people store them, and that nothing of them is lost without a word."""

import dataclasses
import json
import logging
from typing import Any

import data_files
import pytest
from families import make_tokenizer

from lexalign.config.compose import compose
from lexalign.data import chat_converters, lengths
from lexalign.data.rendering import Renderer
from lexalign.data.rows import get_prompt_key, hold_out, load_rows
from lexalign.data.turns import check_turns, looks_like_turns
from lexalign.errors import ConfigError, DataError

TOOL = {"type": "function", "function": {"name": "bus_times", "parameters": {"type": "object", "properties": {"stop": {"type": "string"}}}}}
CALL = {"type": "function", "function": {"name": "bus_times", "arguments": {"stop": "Harbour"}}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "You plan trips."},
    {"role": "user", "content": "When does the bus leave?"},
    {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]},
    {"role": "tool", "name": "bus_times", "content": '{"next": "10:05"}'},
    {"role": "assistant", "content": "At 10:05.", "reasoning_content": "The tool says 10:05."},
]


def load(tmp_path: Any, table: list[dict[str, Any]], *overrides: str, kind: str = "jsonl") -> Any:
    """The rows of a table, read as an experiment reads them."""
    path = data_files.write(tmp_path / f"rows.{kind}", kind, table)
    settings = ["stage=sft", "model=tiny", "tracking=none", f"data.path={path}", "data.eval_fraction=null", "evaluate=false", *overrides]
    return load_rows(compose(settings).experiment)


@pytest.fixture(scope="module")
def data():
    return compose(["stage=sft", "model=tiny"]).experiment.data


@pytest.fixture(scope="module")
def qwen(data):
    return Renderer(make_tokenizer("qwen3"), data)


def test_a_turn_keeps_all_that_it_says(tmp_path):
    row = load(tmp_path, [{"messages": TALK, "tools": [TOOL]}], "data=messages").train[0]
    assert row["messages"] == TALK and row["tools"] == [TOOL] and row.where.endswith("rows.jsonl:1")
    nulls = [{**turn, "refusal": None, "weight": 1} if turn["role"] == "assistant" else {**turn, "tool_calls": None} for turn in TALK]
    assert [{key: turn[key] for key in turn if key != "weight"} for turn in check_turns(nulls, "x")] == TALK


def test_tools_calls_and_reasoning_reach_the_model(qwen):
    row = {"messages": TALK, "tools": [TOOL]}
    sequence = qwen.render_answer(row)
    text = qwen.tokenizer.decode(sequence.ids)
    trained = qwen.tokenizer.decode([token for token, trained in zip(sequence.ids, sequence.trained, strict=True) if trained])
    assert json.dumps(TOOL) in text and "<tool_response>\n" + TALK[3]["content"] in text
    assert '<tool_call>\n{"name": "bus_times", "arguments": {"stop": "Harbour"}}\n</tool_call>' in trained
    assert "The tool says 10:05.\n</think>\n\nAt 10:05.<|im_end|>" in trained and "tool_response" not in trained
    assert not {"dropped", "unseen"} & set(qwen.changes.counts)
    pair = {"prompt": TALK[:4], "chosen": "At 10:05.", "rejected": "Never.", "tools": [TOOL]}
    assert all(json.dumps(TOOL) in qwen.tokenizer.decode(one.context) for one in qwen.render_pair(pair, shared_belief=True))


def test_what_a_template_does_not_show_is_refused_and_may_be_allowed(data, caplog):
    row = {"messages": TALK, "tools": [TOOL]}
    tokenizer = make_tokenizer("chatml")
    with pytest.raises(DataError, match=r"(?s)the template leaves out text of the answer.*data.allow_template_changes=true.*does not show"):
        lengths.measure_one_by_one(Renderer(tokenizer, data))([row])
    allowed = Renderer(tokenizer, dataclasses.replace(data, allow_template_changes=True))
    with caplog.at_level(logging.WARNING):
        lengths.measure_one_by_one(allowed)([row])
    assert "the template leaves out text of the answer" in caplog.text and "the tool bus_times" in caplog.text
    assert allowed.changes.counts == {"dropped": 2, "unseen": 1, "keys_unread": 1}, "call and reasoning; the tool; the tool turn's name"


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        ({"role": "assistant", "content": [{"type": "image_url", "image_url": "x"}]}, "holds a part of the type image_url"),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "has tool_calls, which only an assistant's turn has"),
        ({"role": "assistant", "content": "a", "weight": -1}, "weight=-1, expected a number that is not negative"),
        ({"role": "assistant", "content": "a", "train": "yes"}, "train='yes', expected true or false"),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}, "tool call 1 names no function"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "expected a JSON object"),
        ({"role": "assistant", "content": None}, "turn 2 (assistant) has no text"),
        ({"from": "gpt", "value": "a"}, "data.converter=lexalign.data.chat_converters.sharegpt"),
    ],
)
def test_a_turn_that_cannot_be_read_is_named(turn, problem):
    with pytest.raises(DataError) as refusal:
        check_turns([{"role": "user", "content": "q"}, turn], "rows.jsonl:3: 'messages'")
    assert problem in str(refusal.value) and str(refusal.value).startswith("rows.jsonl:3")


def test_parts_of_text_and_json_texts_are_read(tmp_path):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert check_turns([{"role": "user", "content": parts}], "x")[0]["content"] == "one\ntwo"
    turns = [{"role": "user", "content": "q"}]
    assert looks_like_turns(json.dumps(turns)) and not looks_like_turns("[see above]") and not looks_like_turns("[1, 2]")
    table = [{"prompt": json.dumps(turns), "completion": "a"}, {"prompt": "[sic] q", "completion": "b"}]
    first, second = load(tmp_path, table, "data=instructions", kind="csv").train
    assert first["prompt"] == turns and second["prompt"] == "[sic] q"


def test_weights_and_train_marks_are_one_weight():
    answer = {"role": "assistant", "content": "a"}
    said = [{"weight": 0}, {"weight": 2.5}, {"train": False}, {"train": True, "weight": 0.5}, {}]
    assert [check_turns([{**answer, **marks}], "x")[0].get("weight") for marks in said] == [0.0, 2.5, 0.0, 0.5, None]


def test_a_row_brings_its_own_system_and_arguments(data, tmp_path):
    table = [
        {"prompt": "q", "completion": "a", "system": "Be kind.", "template_arguments": {"enable_thinking": False}},
        {"prompt": "q2", "completion": "b", "system": None},
    ]
    first, second = load(tmp_path, table, "data=instructions").train
    renderer = Renderer(make_tokenizer("qwen3"), dataclasses.replace(data, system="Be brief."))
    one, other = (renderer.tokenizer.decode(renderer.render_answer(row).context) for row in (first, second))
    assert "Be kind." in one and one.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert "Be brief." in other and other.endswith("<|im_start|>assistant\n")
    for_all = Renderer(make_tokenizer("qwen3"), dataclasses.replace(data, template_arguments={"enable_thinking": False}))
    assert for_all.tokenizer.decode(for_all.render_prompt("q")).endswith("</think>\n\n")


def test_columns_that_nothing_reads_are_named(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        splits = load(tmp_path, [{"prompt": "q", "completion": "a", "source": "web", "score": 1}], "data=instructions")
    assert "nothing reads: source (1 rows), score (1 rows)" in caplog.text and splits.counts["train_columns_unread"] == 2


def test_a_parquet_file_with_a_column_twice_is_refused(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_arrays([["q"], ["a"], ["other"]], names=["prompt", "completion", "prompt"]), path)
    with pytest.raises(ConfigError, match="has the columns 'prompt' more than once"):
        compose(["stage=sft", "model=tiny", "data=instructions", f"data.path={path}", "data.eval_fraction=null", "evaluate=false"])


def test_conversations_are_held_out_by_what_stands_before_the_last_answer():
    def talk(question: str, answer: str, *before: str) -> dict[str, Any]:
        turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate((*before, question, answer))]
        return {"messages": turns}

    rows = [talk(f"Who built house {house}?", f"{who} {house}.") for house in range(20) for who in ("Mason", "Baker")]
    train, held_out = hold_out(rows, 0.1)
    assert len(held_out) == 4 and not {get_prompt_key(row) for row in train} & {get_prompt_key(row) for row in held_out}
    assert get_prompt_key(talk("q", "a")) == get_prompt_key({"prompt": "q"}) != get_prompt_key(talk("q", "a", "p", "b"))


SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "You plan trips."},
        {"from": "human", "value": "When does the bus leave?"},
        {"from": "function_call", "value": json.dumps({"name": "bus_times", "arguments": {"stop": "Harbour"}})},
        {"from": "observation", "value": "10:05"},
        {"from": "gpt", "value": "At 10:05.", "weight": 0},
    ],
    "tools": json.dumps([TOOL]),
    "id": "x1",
}


def test_sharegpt_and_openai_rows_become_ours(tmp_path):
    row = load(tmp_path, [SHAREGPT], "data=sharegpt").train[0]
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    assert row["messages"][2]["tool_calls"] == [CALL] and row["messages"][4]["weight"] == 0.0 and row["tools"] == [TOOL]
    older = {
        "messages": [
            {"role": "user", "content": "When?"},
            {"role": "assistant", "content": None, "function_call": {"name": "bus_times", "arguments": '{"stop": "Harbour"}'}},
            {"role": "function", "name": "bus_times", "content": "10:05"},
            {"role": "assistant", "content": "At 10:05."},
        ],
        "functions": [TOOL["function"]],
    }
    row = load(tmp_path, [older], "data=openai").train[0]
    assert row["messages"][1]["tool_calls"] == [CALL] and row["messages"][2]["role"] == "tool" and row["tools"] == [TOOL]
    answer = {"role": "assistant", "content": "Yes."}
    preference = {"input": {"messages": [{"role": "user", "content": "q"}]}, "preferred_output": [answer],
                  "non_preferred_output": [{**answer, "content": "No."}]}  # fmt: skip
    converted = chat_converters.openai_preference(preference)
    assert converted == {"prompt": [{"role": "user", "content": "q"}], "chosen": [answer], "rejected": [{**answer, "content": "No."}]}
    pair = {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    }
    assert chat_converters.sharegpt_pairs(pair) == {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}
    assert chat_converters.sharegpt({"conversations": [{"from": "human", "value": "q"}]}) is None
