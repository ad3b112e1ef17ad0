"""Convert stored turns of a conversation to the turns that chat templates take. Nothing is left out silently. No torch."""

import json
from collections.abc import Mapping
from typing import Any

from lexalign.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names of the field that holds the assistant's reasoning before its answer. Templates read the first name."""
Turn = dict[str, Any]


def parse_json(value: str, where: str, expected: str) -> Any:
    """The value of a JSON text, as CSV files hold it; raises DataError that names the expected kind of value."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise DataError(f"{where} is text, expected {expected}") from None


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
        checked_turn = check_turn(turn, f"{where} turn {number}")
        if turns and checked_turn["role"] == turns[-1]["role"] != "tool":
            raise DataError(f"{where} turns {number - 1} and {number} are both {checked_turn['role']}'s")
        turns.append(checked_turn)
    return turns


def check_turn(turn: Any, where: str) -> Turn:
    """One turn: role, content as text, and its other fields. Fields that are null are ignored."""
    fields = {name: value for name, value in turn.items() if value is not None} if isinstance(turn, Mapping) else {}
    role = fields.get("role")
    if role not in ROLES:
        hint = "; data.converter=lexalign.data.chat_converters.sharegpt (data=sharegpt) reads from and value" if "from" in fields else ""
        raise DataError(f"{where} has the role {role!r}; known are {', '.join(ROLES)}{hint}")
    place = f"{where} ({role})"
    checked_turn: Turn = {"role": role, "content": check_content(fields.get("content"), place)}
    checked_turn |= {
        name: value for name, value in fields.items() if name not in (*checked_turn, *REASONING, "weight", "train", "tool_calls")
    }
    for name in REASONING:
        if name in fields and (text := check_content(fields[name], f"{place}: {name}")).strip():
            checked_turn["reasoning_content"] = text
    if calls := fields.get("tool_calls"):
        checked_turn["tool_calls"] = check_tool_calls(calls, place)
    if {"weight", "train"} & set(fields):
        checked_turn["weight"] = check_weight(fields, place)
    if role != "assistant" and (
        misplaced_fields := [name for name in ("reasoning_content", "tool_calls", "weight") if name in checked_turn]
    ):
        raise DataError(f"{place} has {' and '.join(misplaced_fields)}, which only an assistant's turn has")
    if not checked_turn["content"].strip() and not ({"tool_calls", "reasoning_content"} & set(checked_turn)):
        raise DataError(f"{place} has no text")
    return checked_turn


def check_content(value: Any, where: str) -> str:
    """The text of a turn. Several parts of text are joined with line breaks. Raises DataError for a part that is not text."""
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
    """The tool calls of a turn, with arguments as objects. Arguments as JSON text (OpenAI's API) are parsed."""
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
        other_fields = {name: field for name, field in call.items() if name not in ("function", "name", "arguments") and field is not None}
        calls.append({"type": "function", **other_fields, "function": {**function, "arguments": drop_nulls(arguments)}})
    return calls


def drop_nulls(value: Any) -> Any:
    """A value without the null entries that Parquet and Arrow give every object of a column whose objects differ."""
    if isinstance(value, Mapping):
        return {name: drop_nulls(item) for name, item in value.items() if item is not None}
    return [drop_nulls(item) for item in value] if isinstance(value, list) else value


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
    reserved_names = sorted({"messages", "tools", "add_generation_prompt", "tokenize", "chat_template", "conversation"} & set(value))
    if reserved_names:
        raise DataError(f"{where} holds {', '.join(reserved_names)}, which the program gives the template itself; take it out")
    return drop_nulls(dict(value))
