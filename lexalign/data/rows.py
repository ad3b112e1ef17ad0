"""The rows of an experiment: read, renamed to our columns, checked one by one, split. No torch.

Every row that is left out or changed is counted; every error names the file, the line and the field.
"""

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hydra.utils import get_method

from lexalign.data.columns import nearest_column, wanted_columns
from lexalign.data.files import rows_of, split_file
from lexalign.errors import DataError
from lexalign.locate import find_data
from lexalign.schema import Data, Experiment

log = logging.getLogger(__name__)
Row = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool")
SUM_TOLERANCE = 1e-3


@dataclass(kw_only=True)
class Splits:
    """Rows to train on and rows held out, in our columns, and what happened on the way."""

    train: list[Row]
    held_out: list[Row]
    counts: dict[str, int] = field(default_factory=Counter)


def load(experiment: Experiment) -> Splits:
    """Read and check every row; raises DataError for the first bad one."""
    data = experiment.data
    counts: Counter[str] = Counter()
    train = list(read_split(experiment, data.split, counts))
    if not train:
        raise DataError(f"{data.path}: the split {data.split!r} holds no rows")
    held_out: list[Row] = []
    if data.eval_split is not None:
        held_out = list(read_split(experiment, data.eval_split, counts))
        if not held_out:
            raise DataError(f"{data.path}: the split {data.eval_split!r} holds no rows")
    elif data.eval_fraction is not None:
        train, held_out = hold_out(train, data.eval_fraction)
        if not train:
            raise DataError(f"{data.path}: all rows share one prompt, so none can be held out; type data.eval_fraction=null")
    counts["overlapping_prompts"] = len({prompt_of(row) for row in train} & {prompt_of(row) for row in held_out})
    if counts["overlapping_prompts"]:
        log.warning("%d held-out prompts are training prompts too: the evaluation flatters the model", counts["overlapping_prompts"])
    for rows in (train, held_out):
        counts["shares_estimated"] += estimate_shares(rows, len(data.beliefs or ()))
    if counts["shares_estimated"]:
        log.warning("Target shares of %d prompts are estimated from their beliefs' frequencies: no column gives them", counts["shares_estimated"])
    counts["train_rows"], counts["held_out_rows"] = len(train), len(held_out)
    if counts["left_out_by_converter"]:
        log.warning("%d rows were left out by data.converter=%s", counts["left_out_by_converter"], data.converter)
    return Splits(train=train, held_out=held_out, counts=dict(counts))


def read_split(experiment: Experiment, split: str, counts: Counter[str]) -> Iterator[Row]:
    """The checked rows of one split, at most `data.limit`."""
    data = experiment.data
    columns = wanted_columns(experiment)
    needed = experiment.method.needs.columns if experiment.stage.name == "align" and experiment.method else list(columns)
    convert = get_method(data.converter) if data.converter else None
    taken = 0
    for where, raw in source(data, split):
        if taken == data.limit:
            return
        row = converted(raw, convert, where)
        if row is None:
            counts["left_out_by_converter"] += 1
            continue
        taken += 1
        yield checked(row, columns, needed, data, where)


def source(data: Data, split: str) -> Iterator[tuple[str, Row]]:
    """Raw rows with the place each stands at: files of this disk, or a hub data set."""
    assert data.path is not None
    place = None if data.format == "hub" else find_data(data.path)
    if place is None or place.kind == "hub":
        yield from hub_rows(data, split)
        return
    assert place.path is not None
    path, kind = split_file(place.path, split, data.format)
    yield from rows_of(path, kind)


def hub_rows(data: Data, split: str) -> Iterator[tuple[str, Row]]:
    """Rows of a hub data set, through the datasets library (which runs no code of the data set)."""
    import datasets

    try:
        found = datasets.load_dataset(data.path, name=data.subset, split=split, revision=data.revision)
    except Exception as error:
        message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{data.path} (split {split!r}): {message}; fetch it with stage=download, or check data.subset and data.split") from error
    for number, row in enumerate(found, 1):
        yield f"{data.path} {split} row {number}", row


def converted(raw: Row, convert: Callable[[Row], Row | None] | None, where: str) -> Row | None:
    """The row as the converter makes it; raises DataError naming the row where it fails."""
    if convert is None:
        return raw
    try:
        return convert(raw)
    except Exception as error:
        raise DataError(f"{where}: the converter failed: {type(error).__name__}: {error}") from error


def checked(row: Row, columns: dict[str, str], needed: list[str], data: Data, where: str) -> Row:
    """One row in our columns; raises DataError naming the place and the field."""
    found: Row = {}
    for ours, theirs in columns.items():
        if theirs not in row:
            if ours in needed:
                raise DataError(f"{where}: has no column {theirs!r}; it has {', '.join(map(str, row))}{nearest_column(ours, theirs, list(row))}")
            continue
        value = row[theirs]
        if value is None:
            raise DataError(f"{where}: {theirs!r} is null")
        found[ours] = CHECKS[ours](value, data, f"{where}: {theirs!r}")
    if "chosen" in found and found["chosen"] == found["rejected"] and found.get("belief") == found.get("rejected_belief", found.get("belief")):
        raise DataError(f"{where}: chosen and rejected are the same, so there is nothing to prefer; remove the row")
    return found


def check_text(value: Any, data: Data, where: str) -> str:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "assistant":
        value = value[0].get("content")
    if isinstance(value, list):
        raise DataError(f"{where} holds {len(value)} turns, expected one answer; data.converter=lexalign.data.converters.last_turns splits them")
    if not isinstance(value, str):
        raise DataError(f"{where} is {type(value).__name__} ({value!r}), expected text")
    if not value.strip():
        raise DataError(f"{where} is empty")
    return value


def check_prompt(value: Any, data: Data, where: str) -> str | list[dict[str, str]]:
    if not isinstance(value, list):
        return check_text(value, data, where)
    turns = check_turns(value, where)
    if turns[-1]["role"] == "assistant":
        raise DataError(f"{where} ends with an assistant turn; the response belongs to the other columns")
    return turns


def check_messages(value: Any, data: Data, where: str) -> list[dict[str, str]]:
    turns = check_turns(value, where)
    if all(turn["role"] != "assistant" for turn in turns):
        raise DataError(f"{where} has no assistant turn, so there is nothing to train")
    return turns


def check_turns(value: Any, where: str) -> list[dict[str, str]]:
    """A list of turns with known roles and text; an empty assistant turn or two user turns in a row are refused."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise DataError(f"{where} is text, expected a list of turns with role and content") from None
    if not isinstance(value, list) or not value:
        raise DataError(f"{where} is no list of turns with role and content")
    turns = []
    for number, turn in enumerate(value, 1):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in ROLES:
            raise DataError(f"{where} turn {number} has the role {role!r}; known are {', '.join(ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise DataError(f"{where} turn {number} ({role}) has no text")
        if turns and role == turns[-1]["role"] != "tool":
            raise DataError(f"{where} turns {number - 1} and {number} are both {role}'s")
        turns.append({"role": role, "content": content})
    return turns


def check_belief(value: Any, data: Data, where: str) -> int:
    """The belief's index; texts are looked up in `data.beliefs`."""
    texts = data.beliefs or []
    if isinstance(value, str) and value in texts:
        return texts.index(value)
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < len(texts):
            return value
        raise DataError(f"{where} is {value}, but data.beliefs has the indices 0 to {len(texts) - 1}")
    raise DataError(f"{where} is {value!r}, which is not in data.beliefs ({', '.join(texts)})")


def check_probabilities(value: Any, data: Data, where: str) -> list[float]:
    """Shares of the beliefs: as many as there are beliefs, none negative, sum 1."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise DataError(f"{where} is text, expected a list of shares") from None
    count = len(data.beliefs or ())
    if not isinstance(value, list) or len(value) != count:
        what = f"{len(value)} shares" if isinstance(value, list) else type(value).__name__
        raise DataError(f"{where} holds {what}, expected {count}, one for each of data.beliefs")
    for share in value:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not math.isfinite(share) or share < 0:
            raise DataError(f"{where} holds {share!r}, which is no share")
    if abs(sum(value) - 1) > SUM_TOLERANCE:
        raise DataError(f"{where} sums to {sum(value):.6g}, expected 1 (within {SUM_TOLERANCE})")
    return [float(share) for share in value]


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
}


def prompt_of(row: Row) -> str:
    """What a row is known by when rows are held out: its prompt, or all of it where it has none."""
    shown = row.get("prompt", row.get("text", row.get("messages")))
    return shown if isinstance(shown, str) else json.dumps(shown, sort_keys=True)


def hold_out(rows: list[Row], fraction: float) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, by prompt: a prompt's own digest decides, so the choice outlives seed and order."""
    prompts = sorted({prompt_of(row) for row in rows}, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    held = set(prompts[: max(1, round(fraction * len(prompts)))])
    return [row for row in rows if prompt_of(row) not in held], [row for row in rows if prompt_of(row) in held]


def estimate_shares(rows: list[Row], count: int) -> int:
    """Give rows with a belief but without shares the frequencies of their prompt's beliefs; returns the number of such prompts."""
    lacking = [row for row in rows if "belief" in row and "probabilities" not in row]
    tally: dict[str, Counter[int]] = {}
    for row in lacking:
        tally.setdefault(prompt_of(row), Counter())[row["belief"]] += 1
    for row in lacking:
        seen = tally[prompt_of(row)]
        row["probabilities"] = [seen[index] / seen.total() for index in range(count)]
    return len(tally)
