"""Convert conversations in the layouts of ShareGPT and OpenAI to rows in our columns. A converter returns None for a row it cannot use."""

import json
from typing import Any

Row = dict[str, Any]


SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "system": "system", "tool": "tool", "observation": "tool", "function_response": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}  # fmt: skip
"""Speakers in the ShareGPT layout and the role of each."""


def sharegpt(row: Row) -> Row | None:
    """ShareGPT's layout: conversations (a list of from and value), optional system and tools -> messages and the other fields of the row.

    A turn from `function_call` holds a call as JSON. A row without an assistant turn is left out.
    """
    stored_turns = parse_list(row["conversations"])
    other_fields = {name: value for name, value in row.items() if name != "conversations"}
    turns = [convert_sharegpt_turn(turn) for turn in stored_turns]
    if not any(turn["role"] == "assistant" for turn in turns):
        return None
    return {**other_fields, "messages": turns}


def sharegpt_pairs(row: Row) -> Row | None:
    """ShareGPT's layout of preferences: conversations, and chosen and rejected as one turn each -> prompt (turns), chosen, rejected."""
    other_fields = {name: value for name, value in row.items() if name not in ("conversations", "chosen", "rejected")}
    prompt = [convert_sharegpt_turn(turn) for turn in parse_list(row["conversations"])]
    chosen_text, rejected_text = (convert_sharegpt_turn(row[side])["content"] for side in ("chosen", "rejected"))
    if not prompt or prompt[-1]["role"] == "assistant" or chosen_text == rejected_text:
        return None
    return {**other_fields, "prompt": prompt, "chosen": chosen_text, "rejected": rejected_text}


def convert_sharegpt_turn(turn: Any) -> Row:
    """Convert a turn with from and value (or role and content) to one with role and content; its other fields stay."""
    speaker = turn.get("from", turn.get("role"))
    if speaker not in SHAREGPT_ROLES:
        raise ValueError(f"a turn is from {speaker!r}; known are {', '.join(SHAREGPT_ROLES)}")
    content = turn.get("value", turn.get("content"))
    other_fields = {name: value for name, value in turn.items() if name not in ("from", "role", "value", "content")}
    if speaker in ("function_call", "tool_call"):
        calls = json.loads(content) if isinstance(content, str) else content
        return {**other_fields, "role": "assistant", "content": "", "tool_calls": calls if isinstance(calls, list) else [calls]}
    return {**other_fields, "role": SHAREGPT_ROLES[speaker], "content": content}


def openai_chat(row: Row) -> Row:
    """OpenAI's layout of fine-tuning: messages, tools; the older functions, function_call and role function become tools and tool_calls."""
    other_fields = {name: value for name, value in row.items() if name not in ("messages", "functions", "tools")}
    tools = row.get("tools") or [{"type": "function", "function": function} for function in row.get("functions") or ()]
    turns = [convert_openai_turn(turn) for turn in parse_list(row["messages"])]
    return {**other_fields, "messages": turns, **({"tools": tools} if tools else {})}


def convert_openai_turn(turn: Any) -> Row:
    """A turn in OpenAI's layout; an older function call becomes a tool call."""
    fields = {name: value for name, value in turn.items() if name != "function_call" and value is not None}
    if turn.get("function_call"):
        fields["tool_calls"] = [{"type": "function", "function": turn["function_call"]}]
    if fields.get("role") == "function":
        fields["role"] = "tool"
    return fields


def openai_preference(row: Row) -> Row | None:
    """OpenAI's layout of preferences: input (messages, tools), preferred_output, non_preferred_output -> prompt, chosen, rejected."""
    other_fields = {name: value for name, value in row.items() if name not in ("input", "preferred_output", "non_preferred_output")}
    request = row["input"]
    outputs = [parse_list(row[side]) for side in ("preferred_output", "non_preferred_output")]
    if any(len(turns) != 1 or turns[0].get("role") != "assistant" for turns in outputs):
        return None
    chosen_turns, rejected_turns = outputs
    prompt = [convert_openai_turn(turn) for turn in parse_list(request["messages"])]
    tools = {"tools": request["tools"]} if request.get("tools") else {}
    return (
        None
        if chosen_turns == rejected_turns
        else {**other_fields, **tools, "prompt": prompt, "chosen": chosen_turns, "rejected": rejected_turns}
    )


def parse_list(value: Any) -> list[Any]:
    """A list, or the list in a JSON text."""
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, list):
        raise TypeError(f"expected a list of turns, found {type(value).__name__}")
    return value
