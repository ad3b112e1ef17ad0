"""One check for each of our columns: `(value, data, where) -> value`. A check raises DataError that begins with `where`."""

import json
import math
from collections.abc import Callable
from typing import Any

from lexalign.config.schema import Data
from lexalign.data.files import LONGEST
from lexalign.data.turns import Turn, check_template_arguments, check_tools, check_turn, check_turns, looks_like_turns
from lexalign.errors import DataError

SUM_TOLERANCE = 1e-3
LABELS = {"true": True, "false": False, "1": True, "0": False}


def check_text(value: Any, data: Data, where: str) -> str:
    """A text, or the text of one assistant turn that has only a text."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "assistant":
        turn = check_turn(value[0], f"{where} turn 1")
        if other_fields := [name for name in turn if name not in ("role", "content")]:
            raise DataError(
                f"{where} has {' and '.join(other_fields)}, which is read in data.columns.messages only; give such rows as conversations"
            )
        value = turn["content"]
    if isinstance(value, list):
        hint = "data.converter=lexalign.data.converters.last_turns splits them"
        raise DataError(f"{where} holds {len(value)} turns, expected one answer; {hint}")
    if not isinstance(value, str):
        raise DataError(f"{where} is {type(value).__name__} ({value!r}), expected text")
    if not value.strip():
        raise DataError(f"{where} is empty")
    return check_whole_text(value, where)


def check_whole_text(text: str, where: str) -> str:
    """The text; raises DataError if it is too long for a row, or holds half a character (JSON allows it, no tokenizer can read it)."""
    if len(text) > LONGEST:
        raise DataError(f"{where} holds {len(text):,} characters, more than {LONGEST:,}; split it into rows")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half a character ({text[error.start]!a} at {error.start}); remove it") from error
    return text


def check_prompt(value: Any, data: Data, where: str) -> str | list[Turn]:
    """A prompt as text, or as a list of turns. The list may be JSON text, as CSV files hold it."""
    if not isinstance(value, list) and not (isinstance(value, str) and looks_like_turns(value)):
        return check_text(value, data, where)
    turns = check_turns(value, where)
    if turns[-1]["role"] == "assistant":
        raise DataError(f"{where} ends with an assistant turn; the response belongs to the other columns")
    return turns


def check_messages(value: Any, data: Data, where: str) -> list[Turn]:
    """A conversation in which an assistant turn is trained."""
    turns = check_turns(value, where)
    if all(turn["role"] != "assistant" for turn in turns):
        raise DataError(f"{where} has no assistant turn, so there is nothing to train")
    return turns


def check_belief(value: Any, data: Data, where: str) -> int:
    """The index of a belief. The value may be the index, the text in `data.beliefs`, the text before a response, or {id, text}."""
    texts = data.beliefs or []
    if isinstance(value, dict) and set(value) == {"id", "text"}:
        index_of_id, index_of_text = (check_belief(value[name], data, f"{where}: {name}") for name in ("id", "text"))
        if index_of_id != index_of_text:
            raise DataError(
                f"{where} has the id {value['id']} ({texts[index_of_id]}) and the text {value['text']!r}; they must name one belief"
            )
        return index_of_id
    if isinstance(value, str) and value in texts:
        return texts.index(value)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < len(texts):
            return value
        raise DataError(f"{where} is {value}, but data.beliefs has the indices 0 to {len(texts) - 1}")
    belief_texts = [data.belief_format.format(index=index, text=text) for index, text in enumerate(texts)]
    if isinstance(value, str) and value in belief_texts:
        return belief_texts.index(value)
    raise DataError(f"{where} is {value!r}, which is not in data.beliefs ({', '.join(texts)})")


def check_probabilities(value: Any, data: Data, where: str) -> list[float]:
    """Shares of the beliefs: one for each belief, none negative, with the sum 1."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise DataError(f"{where} is text, expected a list of shares") from None
    count = len(data.beliefs or ())
    if not isinstance(value, list) or len(value) != count:
        contents = f"{len(value)} shares" if isinstance(value, list) else type(value).__name__
        raise DataError(f"{where} holds {contents}, expected {count}, one for each of data.beliefs")
    for share in value:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not math.isfinite(share) or share < 0:
            raise DataError(f"{where} holds {share!r}, which is no share")
    if abs(sum(value) - 1) > SUM_TOLERANCE:
        raise DataError(f"{where} sums to {sum(value):.6g}, expected 1 (within {SUM_TOLERANCE})")
    return [float(share) for share in value]


def check_group(value: Any, data: Data, where: str) -> str:
    """The name of a group; a whole number becomes its text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return check_text(value, data, where)


def check_soft_label(value: Any, data: Data, where: str) -> float:
    """The probability that the chosen response is preferred."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise DataError(f"{where} is {value!r}, expected a probability") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise DataError(f"{where} is {value!r}, expected a probability from 0 to 1 that the chosen response is preferred")
    return float(value)


def check_label(value: Any, data: Data, where: str) -> bool:
    """Whether a completion is desirable."""
    label = LABELS.get(value.strip().lower()) if isinstance(value, str) else value
    if label in (0, 1) and isinstance(label, int):
        return bool(label)
    raise DataError(f"{where} is {value!r}, expected true or false (or 1 or 0): whether the completion is desirable")


CHECKS: dict[str, Callable[[Any, Data, str], Any]] = {
    "text": check_text,
    "messages": check_messages,
    "prompt": check_prompt,
    "completion": check_text,
    "chosen": check_text,
    "rejected": check_text,
    "belief": check_belief,
    "rejected_belief": check_belief,
    "probabilities": check_probabilities,
    "group": check_group,
    "soft_label": check_soft_label,
    "label": check_label,
    "tools": lambda value, data, where: check_tools(value, where),
    "system": check_text,
    "template_arguments": lambda value, data, where: check_template_arguments(value, where),
}
