"""The rows of an experiment: read, renamed to our columns, checked one by one, split. No torch.

Every row that is left out or changed is counted; every error names the file, the line and the field.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hydra.utils import get_method

from lexalign.config.paths import find_data
from lexalign.config.schema import Data, Experiment
from lexalign.data.checks import CHECKS
from lexalign.data.columns import ROW_COLUMNS, list_needed_columns, list_wanted_columns, suggest_column
from lexalign.data.converters import ConvertedRows
from lexalign.data.files import find_split_file, read_rows
from lexalign.data.split_checks import SplitChecks
from lexalign.errors import DataError

log = logging.getLogger(__name__)
Row = dict[str, Any]


class PlacedRow(dict[str, Any]):
    """A row with its place in the data, for messages. It is equal to the plain row and is written like a plain row."""

    where: str | None = None


Converter = Callable[[Row], Row | ConvertedRows | list[Row] | None]
HUB_WORKERS, HUB_RETRIES = 4, 5


@dataclass(kw_only=True)
class Splits:
    """Rows to train on and rows held out, in our columns, with counts of the rows that were left out or changed."""

    train: list[Row]
    held_out: list[Row]
    counts: dict[str, int] = field(default_factory=Counter)


def load_rows(experiment: Experiment) -> Splits:
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
            advice = "data.eval_fraction=null" + ("" if experiment.method is None else " evaluate.enabled=false")
            raise DataError(f"{data.path}: all rows share one prompt, so none can be held out; type {advice}")
    elif experiment.method is None:
        train, held_out = [], train  # no split is named to be held out: all rows are measured
    if experiment.stage.name == "align":
        refuse_one_label(train, data)
    counts["overlapping_prompts"] = len({get_prompt_key(row) for row in train} & {get_prompt_key(row) for row in held_out})
    if counts["overlapping_prompts"]:
        log.warning("%d held-out prompts are training prompts too: the evaluation flatters the model", counts["overlapping_prompts"])
    for rows in (train, held_out):
        counts["shares_estimated"] += estimate_shares(rows, len(data.beliefs or ()))
    if counts["shares_estimated"]:
        estimated_count = counts["shares_estimated"]
        log.warning("Target shares of %d prompts are estimated from their beliefs' frequencies: no column gives them", estimated_count)
    counts["train_rows"], counts["held_out_rows"] = len(train), len(held_out)
    if counts["left_out_by_converter"]:
        log.warning("%d rows were left out by data.converter=%s", counts["left_out_by_converter"], data.converter)
    if counts["shares_rescaled"]:
        log.warning("Target shares of %d rows sum to 1 only within rounding, and were rescaled", counts["shares_rescaled"])
    return Splits(train=train, held_out=held_out, counts=dict(counts))


def read_split(experiment: Experiment, split: str, counts: Counter[str]) -> Iterator[Row]:
    """The checked rows of one split, at most `data.limit`."""
    data = experiment.data
    columns = list_wanted_columns(experiment)
    needed_columns = list_needed_columns(experiment)
    converter = get_method(data.converter) if data.converter else None
    tally = SplitChecks()
    for number, (where, raw_row) in enumerate(convert_rows(open_source(data, split), converter, counts), 1):
        row = check_row(raw_row, columns, needed_columns, data, where)
        tally.see(row, where)
        tally.see_unread(raw_row, columns.values())
        yield row
        if number == data.limit:
            break
    tally.tell(data, split, counts)


def open_source(data: Data, split: str) -> Iterator[tuple[str, Row]]:
    """Raw rows, each with its place, from files on this disk or from a hub data set."""
    assert data.path is not None
    place = None if data.format == "hub" else find_data(data.path)
    if place is None or place.kind == "hub":
        yield from read_hub_rows(data, split)
        return
    assert place.path is not None
    path, kind = find_split_file(place.path, split, data.format)
    yield from read_rows(path, kind)


def read_hub_rows(data: Data, split: str) -> Iterator[tuple[str, Row]]:
    """Rows of a hub data set. `lexalign.hub` fetches and checks its files. The datasets library reads them and runs none of their code.

    The library reads the folder, because it does not look in the hub's cache when it is offline.
    """
    import datasets

    from lexalign.hub import fetch

    assert data.path is not None
    snapshot = fetch(
        repo=data.path,
        kind="dataset",
        revision=data.revision,
        include=[],
        exclude=[],
        output_dir=None,
        workers=HUB_WORKERS,
        retries=HUB_RETRIES,
    )
    try:
        dataset = datasets.load_dataset(str(snapshot.folder), name=data.subset, split=split)
    except Exception as error:
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{data.path} (split {split!r}): {message}; check data.subset and data.split") from error
    for number, row in enumerate(dataset, 1):
        yield f"{data.path}@{snapshot.commit[:8]} {split} row {number}", row


def convert_rows(stored_rows: Iterator[tuple[str, Row]], converter: Converter | None, counts: Counter[str]) -> Iterator[tuple[str, Row]]:
    """The rows that the converter makes from the stored rows; raises DataError that names the row where it fails."""
    for where, raw_row in stored_rows:
        if converter is None:
            yield where, raw_row
            continue
        try:
            result = converter(raw_row)
        except Exception as error:
            raise DataError(f"{where}: the converter failed: {type(error).__name__}: {error}") from error
        if isinstance(result, list):
            result = ConvertedRows(rows=result)
        if isinstance(result, ConvertedRows):
            counts["left_out_by_converter"] += result.left_out
            counts["shares_rescaled"] += result.rescaled
            yield from ((f"{where} ({number} of {len(result.rows)})", row) for number, row in enumerate(result.rows, 1))
        elif result is None:
            counts["left_out_by_converter"] += 1
        elif isinstance(result, dict):
            yield where, result
        else:
            raise DataError(f"{where}: the converter returned {type(result).__name__}; it must return a row, a list of rows, or None")


def check_row(row: Row, columns: dict[str, str], needed: list[str], data: Data, where: str) -> Row:
    """One row in our columns; raises DataError that names the place and the field."""
    checked_row = PlacedRow()
    checked_row.where = where
    for our_name, their_name in columns.items():
        if their_name not in row or (our_name in ROW_COLUMNS and row[their_name] is None):
            if our_name in needed:
                column_names, hint = ", ".join(map(str, row)), suggest_column(our_name, their_name, list(row))
                raise DataError(f"{where}: has no column {their_name!r}; it has {column_names}{hint}")
            continue
        value = row[their_name]
        if value is None:
            raise DataError(f"{where}: {their_name!r} is null")
        checked_row[our_name] = CHECKS[our_name](value, data, f"{where}: {their_name!r}")
    same_belief = checked_row.get("belief") == checked_row.get("rejected_belief", checked_row.get("belief"))
    if "chosen" in checked_row and checked_row["chosen"] == checked_row["rejected"] and same_belief:
        raise DataError(f"{where}: chosen and rejected are the same, so there is nothing to prefer; remove the row")
    return checked_row


def refuse_one_label(rows: list[Row], data: Data) -> None:
    """Raise DataError if every row has the same label: kto learns from the difference between the two labels."""
    labels = {row["label"] for row in rows if "label" in row}
    if len(labels) == 1:
        label_name, missing_label, advice = (
            ("desirable", "undesirable", "stage=sft data.columns.label=null, which learns from good answers alone")
            if labels == {True}
            else ("undesirable", "desirable", "data with both")
        )
        limit_note = f", as far as data.limit={data.limit} goes" if data.limit else ""
        raise DataError(
            f"{data.path}: every row to train on is {label_name} ({data.columns.label}={str(labels.pop()).lower()}){limit_note}; "
            f"kto needs both kinds: add {missing_label} rows, or type {advice}"
        )


def get_prompt_key(row: Row) -> str:
    """The key of a row when rows are held out: its prompt, the turns before the last answer of a conversation, or its text."""
    prompt = row.get("prompt", row.get("text"))
    if prompt is None:
        turns = row["messages"]
        last_answer = max(index for index, turn in enumerate(turns) if turn["role"] == "assistant")
        prompt = turns[:last_answer]
        if len(prompt) == 1 and set(prompt[0]) == {"role", "content"} and prompt[0]["role"] == "user":
            return prompt[0]["content"]  # the same question as a prompt of plain text
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)


def get_question_key(row: Row) -> tuple[str, str]:
    """The key that shares belong to: a prompt and a group (an empty string where the data name no group)."""
    return get_prompt_key(row), row.get("group", "")


def hold_out(rows: list[Row], fraction: float) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, by prompt. The digest of the prompt decides, so the choice depends on no seed and no order."""
    prompts = sorted({get_prompt_key(row) for row in rows}, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    held_out_prompts = set(prompts[: max(1, round(fraction * len(prompts)))])
    return [row for row in rows if get_prompt_key(row) not in held_out_prompts], [
        row for row in rows if get_prompt_key(row) in held_out_prompts
    ]


def estimate_shares(rows: list[Row], count: int) -> int:
    """Set the shares of rows that have a belief but no shares, and return the number of their prompts.

    The shares are the frequencies of the beliefs of the same prompt (and group). `share_rows` is the number of rows that were counted.
    """
    unshared_rows = [row for row in rows if "belief" in row and "probabilities" not in row]
    tally: dict[tuple[str, str], Counter[int]] = {}
    for row in unshared_rows:
        tally.setdefault(get_question_key(row), Counter())[row["belief"]] += 1
    for row in unshared_rows:
        frequencies = tally[get_question_key(row)]
        row["probabilities"] = [frequencies[index] / frequencies.total() for index in range(count)]
        row["share_rows"] = frequencies.total()
    return len(tally)
