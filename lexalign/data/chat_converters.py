"""Conversations in the layouts of ShareGPT and OpenAI into rows of our columns. A converter returns None for a row it cannot use."""

import json
from typing import Any

Row = dict[str, Any]


SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "system": "system", "tool": "tool", "observation": "tool", "function_response": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}  # fmt: skip
"""Who speaks in the ShareGPT layout, in our roles."""


def sharegpt(row: Row) -> Row | None:
    """ShareGPT's layout: conversations (a list of from and value), perhaps system and tools -> messages, and what else the row says.

    A turn from `function_call` holds a call as JSON. A row without an assistant turn is left out.
    """
    listed = parse_list(row["conversations"])
    rest = {name: value for name, value in row.items() if name != "conversations"}
    turns = [convert_sharegpt_turn(turn) for turn in listed]
    if not any(turn["role"] == "assistant" for turn in turns):
        return None
    return {**rest, "messages": turns}


def sharegpt_pairs(row: Row) -> Row | None:
    """ShareGPT's layout of preferences: conversations, and chosen and rejected as one turn each -> prompt (turns), chosen, rejected."""
    rest = {name: value for name, value in row.items() if name not in ("conversations", "chosen", "rejected")}
    prompt = [convert_sharegpt_turn(turn) for turn in parse_list(row["conversations"])]
    better, worse = (convert_sharegpt_turn(row[side])["content"] for side in ("chosen", "rejected"))
    if not prompt or prompt[-1]["role"] == "assistant" or better == worse:
        return None
    return {**rest, "prompt": prompt, "chosen": better, "rejected": worse}


def convert_sharegpt_turn(turn: Any) -> Row:
    """A turn with from and value (or role and content) as one with role and content; what else it says stays."""
    who = turn.get("from", turn.get("role"))
    if who not in SHAREGPT_ROLES:
        raise ValueError(f"a turn is from {who!r}; known are {', '.join(SHAREGPT_ROLES)}")
    said = turn.get("value", turn.get("content"))
    rest = {name: value for name, value in turn.items() if name not in ("from", "role", "value", "content")}
    if who in ("function_call", "tool_call"):
        calls = json.loads(said) if isinstance(said, str) else said
        return {**rest, "role": "assistant", "content": "", "tool_calls": calls if isinstance(calls, list) else [calls]}
    return {**rest, "role": SHAREGPT_ROLES[who], "content": said}


def openai_chat(row: Row) -> Row:
    """OpenAI's layout of fine-tuning: messages, tools; the older functions, function_call and role function become tools and tool_calls."""
    rest = {name: value for name, value in row.items() if name not in ("messages", "functions", "tools")}
    offered = row.get("tools") or [{"type": "function", "function": function} for function in row.get("functions") or ()]
    turns = [convert_openai_turn(turn) for turn in parse_list(row["messages"])]
    return {**rest, "messages": turns, **({"tools": offered} if offered else {})}


def convert_openai_turn(turn: Any) -> Row:
    """A turn of OpenAI's, its older function call as a tool call."""
    rest = {name: value for name, value in turn.items() if name != "function_call" and value is not None}
    if turn.get("function_call"):
        rest["tool_calls"] = [{"type": "function", "function": turn["function_call"]}]
    if rest.get("role") == "function":
        rest["role"] = "tool"
    return rest


def openai_preference(row: Row) -> Row | None:
    """OpenAI's layout of preferences: input (messages, tools), preferred_output, non_preferred_output -> prompt, chosen, rejected."""
    rest = {name: value for name, value in row.items() if name not in ("input", "preferred_output", "non_preferred_output")}
    given = row["input"]
    outputs = [parse_list(row[side]) for side in ("preferred_output", "non_preferred_output")]
    if any(len(turns) != 1 or turns[0].get("role") != "assistant" for turns in outputs):
        return None
    better, worse = outputs
    prompt = [convert_openai_turn(turn) for turn in parse_list(given["messages"])]
    tools = {"tools": given["tools"]} if given.get("tools") else {}
    return None if better == worse else {**rest, **tools, "prompt": prompt, "chosen": better, "rejected": worse}


def parse_list(value: Any) -> list[Any]:
    """A list, which may be written as JSON text."""
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, list):
        raise TypeError(f"expected a list of turns, found {type(value).__name__}")
    return value
