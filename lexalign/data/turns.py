"""Turns of a conversation as people store them into the turns that chat templates take. Nothing is left out without a word. No torch."""

import json
from collections.abc import Mapping
from typing import Any

from lexalign.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names under which data hold what an assistant thought before it answered; the first is the one templates read."""
Turn = dict[str, Any]


def parse_json(value: str, where: str, wanted: str) -> Any:
    """A value that a CSV file holds as JSON text; raises DataError naming what was wanted."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise DataError(f"{where} is text, expected {wanted}") from None


def looks_like_turns(text: str) -> bool:
    """Whether a text is a list of turns written as JSON, as CSV files hold them."""
    if not text.lstrip().startswith("["):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and "role" in turn for turn in value)


def check_turns(value: Any, where: str) -> list[Turn]:
    """A list of turns with known roles and text; an empty turn or two user turns in a row are refused."""
    if isinstance(value, str):
        value = parse_json(value, where, "a list of turns with role and content")
    if not isinstance(value, list) or not value:
        raise DataError(f"{where} is no list of turns with role and content")
    turns: list[Turn] = []
    for number, turn in enumerate(value, 1):
        checked = check_turn(turn, f"{where} turn {number}")
        if turns and checked["role"] == turns[-1]["role"] != "tool":
            raise DataError(f"{where} turns {number - 1} and {number} are both {checked['role']}'s")
        turns.append(checked)
    return turns


def check_turn(turn: Any, where: str) -> Turn:
    """One turn: role, content as text, and whatever else it says; values that are null say nothing."""
    said = {name: value for name, value in turn.items() if value is not None} if isinstance(turn, Mapping) else {}
    role = said.get("role")
    if role not in ROLES:
        hint = "; data.converter=lexalign.data.chat_converters.sharegpt (data=sharegpt) reads from and value" if "from" in said else ""
        raise DataError(f"{where} has the role {role!r}; known are {', '.join(ROLES)}{hint}")
    named = f"{where} ({role})"
    checked: Turn = {"role": role, "content": check_content(said.get("content"), named)}
    checked |= {name: value for name, value in said.items() if name not in (*checked, *REASONING, "weight", "train", "tool_calls")}
    for name in REASONING:
        if name in said and (text := check_content(said[name], f"{named}: {name}")).strip():
            checked["reasoning_content"] = text
    if calls := said.get("tool_calls"):
        checked["tool_calls"] = check_tool_calls(calls, named)
    if {"weight", "train"} & set(said):
        checked["weight"] = check_weight(said, named)
    if role != "assistant" and (extra := [name for name in ("reasoning_content", "tool_calls", "weight") if name in checked]):
        raise DataError(f"{named} has {' and '.join(extra)}, which only an assistant's turn has")
    if not checked["content"].strip() and not ({"tool_calls", "reasoning_content"} & set(checked)):
        raise DataError(f"{named} has no text")
    return checked


def check_content(value: Any, where: str) -> str:
    """The text of a turn. Several parts of text become one, a line each; a part that is no text is refused by its type."""
    from lexalign.data.checks import check_whole_text

    if value is None:
        return ""
    if isinstance(value, list):
        texts = []
        for part in value:
            text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part
            if not isinstance(text, str):
                kind = part.get("type", "unnamed") if isinstance(part, Mapping) else type(part).__name__
                raise DataError(f"{where} holds a part of the type {kind}; only parts of text are read")
            texts.append(text)
        value = "\n".join(texts)
    if not isinstance(value, str):
        raise DataError(f"{where} has no text, but {type(value).__name__}")
    return check_whole_text(value, where)


def check_tool_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """The calls of a turn, arguments as objects: JSON text, as OpenAI's API gives them, is read."""
    if isinstance(value, str):
        value = parse_json(value, f"{where}: tool_calls", "a list of tool calls")
    if not isinstance(value, list):
        raise DataError(f"{where}: tool_calls is {type(value).__name__}, expected a list of tool calls")
    calls = []
    for number, call in enumerate(value, 1):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DataError(f"{where}: tool call {number} names no function")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = parse_json(arguments or "{}", f"{where}: the arguments of tool call {number}", "a JSON object")
        others = {name: inner for name, inner in call.items() if name not in ("function", "name", "arguments") and inner is not None}
        calls.append({"type": "function", **others, "function": {**function, "arguments": drop_nulls(arguments)}})
    return calls


def drop_nulls(value: Any) -> Any:
    """A value without the null entries that Parquet and Arrow give every object of a column whose objects differ."""
    if isinstance(value, Mapping):
        return {name: drop_nulls(inner) for name, inner in value.items() if inner is not None}
    return [drop_nulls(inner) for inner in value] if isinstance(value, list) else value


def check_weight(turn: Mapping[str, Any], where: str) -> float:
    """How much a turn counts in the loss: its `weight`, 0 where `train` is false."""
    weight, train = turn.get("weight", 1), turn.get("train", True)
    if train not in (True, False):
        raise DataError(f"{where} has train={train!r}, expected true or false")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
        raise DataError(f"{where} has weight={weight!r}, expected a number that is not negative")
    return float(weight) if train else 0.0


def check_tools(value: Any, where: str) -> list[dict[str, Any]]:
    """The tools a row offers: JSON schemas, each with a name."""
    if isinstance(value, str):
        value = parse_json(value, where, "a list of tools")
    if not isinstance(value, list):
        raise DataError(f"{where} is {type(value).__name__}, expected a list of tools")
    for number, tool in enumerate(value, 1):
        if not isinstance(tool, Mapping) or not isinstance(get_tool_name(tool), str):
            raise DataError(f"{where}: tool {number} has no name; expected a JSON schema of a function")
    return [drop_nulls(dict(tool)) for tool in value]


def get_tool_name(tool: Mapping[str, Any]) -> Any:
    """The name of a tool's function."""
    function = tool.get("function", tool)
    return function.get("name") if isinstance(function, Mapping) else None


def check_template_arguments(value: Any, where: str) -> dict[str, Any]:
    """The arguments of the chat template that a row gives."""
    if isinstance(value, str):
        value = parse_json(value, where, "an object with the arguments of the chat template")
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is {type(value).__name__}, expected an object with the arguments of the chat template")
    taken = sorted({"messages", "tools", "add_generation_prompt", "tokenize", "chat_template", "conversation"} & set(value))
    if taken:
        raise DataError(f"{where} holds {', '.join(taken)}, which the program gives the template itself; take it out")
    return drop_nulls(dict(value))
