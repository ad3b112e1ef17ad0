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
    """A row that knows the place it stands at, for messages; equal to the plain row, and written as one."""

    where: str | None = None


Converter = Callable[[Row], Row | ConvertedRows | list[Row] | None]
HUB_WORKERS, HUB_RETRIES = 4, 5


@dataclass(kw_only=True)
class Splits:
    """Rows to train on and rows held out, in our columns, and what happened on the way."""

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
            what_to_type = "data.eval_fraction=null" + ("" if experiment.method is None else " evaluate.enabled=false")
            raise DataError(f"{data.path}: all rows share one prompt, so none can be held out; type {what_to_type}")
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
        estimated = counts["shares_estimated"]
        log.warning("Target shares of %d prompts are estimated from their beliefs' frequencies: no column gives them", estimated)
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
    needed = list_needed_columns(experiment)
    convert = get_method(data.converter) if data.converter else None
    tally = SplitChecks()
    for number, (where, raw) in enumerate(convert_rows(open_source(data, split), convert, counts), 1):
        row = check_row(raw, columns, needed, data, where)
        tally.see(row, where)
        tally.see_unread(raw, columns.values())
        yield row
        if number == data.limit:
            break
    tally.tell(data, split, counts)


def open_source(data: Data, split: str) -> Iterator[tuple[str, Row]]:
    """Raw rows with the place each stands at: files of this disk, or a hub data set."""
    assert data.path is not None
    place = None if data.format == "hub" else find_data(data.path)
    if place is None or place.kind == "hub":
        yield from read_hub_rows(data, split)
        return
    assert place.path is not None
    path, kind = find_split_file(place.path, split, data.format)
    yield from read_rows(path, kind)


def read_hub_rows(data: Data, split: str) -> Iterator[tuple[str, Row]]:
    """Rows of a hub data set: its files fetched and checked by `lexalign.hub`, read by the datasets library (which runs no code of theirs).

    From the folder, because offline the library would not look in the hub's cache.
    """
    import datasets

    from lexalign.hub import fetch

    assert data.path is not None
    fetched = fetch(
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
        found = datasets.load_dataset(str(fetched.folder), name=data.subset, split=split)
    except Exception as error:
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{data.path} (split {split!r}): {message}; check data.subset and data.split") from error
    for number, row in enumerate(found, 1):
        yield f"{data.path}@{fetched.commit[:8]} {split} row {number}", row


def convert_rows(stored: Iterator[tuple[str, Row]], convert: Converter | None, counts: Counter[str]) -> Iterator[tuple[str, Row]]:
    """The rows as the converter makes them of the stored ones; raises DataError naming the row where it fails."""
    for where, raw in stored:
        if convert is None:
            yield where, raw
            continue
        try:
            made = convert(raw)
        except Exception as error:
            raise DataError(f"{where}: the converter failed: {type(error).__name__}: {error}") from error
        if isinstance(made, list):
            made = ConvertedRows(rows=made)
        if isinstance(made, ConvertedRows):
            counts["left_out_by_converter"] += made.left_out
            counts["shares_rescaled"] += made.rescaled
            yield from ((f"{where} ({number} of {len(made.rows)})", row) for number, row in enumerate(made.rows, 1))
        elif made is None:
            counts["left_out_by_converter"] += 1
        elif isinstance(made, dict):
            yield where, made
        else:
            raise DataError(f"{where}: the converter returned {type(made).__name__}; it must return a row, a list of rows, or None")


def check_row(row: Row, columns: dict[str, str], needed: list[str], data: Data, where: str) -> Row:
    """One row in our columns; raises DataError naming the place and the field."""
    found = PlacedRow()
    found.where = where
    for ours, theirs in columns.items():
        if theirs not in row or (ours in ROW_COLUMNS and row[theirs] is None):
            if ours in needed:
                there, hint = ", ".join(map(str, row)), suggest_column(ours, theirs, list(row))
                raise DataError(f"{where}: has no column {theirs!r}; it has {there}{hint}")
            continue
        value = row[theirs]
        if value is None:
            raise DataError(f"{where}: {theirs!r} is null")
        found[ours] = CHECKS[ours](value, data, f"{where}: {theirs!r}")
    same_belief = found.get("belief") == found.get("rejected_belief", found.get("belief"))
    if "chosen" in found and found["chosen"] == found["rejected"] and same_belief:
        raise DataError(f"{where}: chosen and rejected are the same, so there is nothing to prefer; remove the row")
    return found


def refuse_one_label(rows: list[Row], data: Data) -> None:
    """Raise DataError where every row has the same label: what is good shows only beside what is not."""
    labels = {row["label"] for row in rows if "label" in row}
    if len(labels) == 1:
        there, lacking, instead = (
            ("desirable", "undesirable", "stage=sft data.columns.label=null, which learns from good answers alone")
            if labels == {True}
            else ("undesirable", "desirable", "data with both")
        )
        first = f", as far as data.limit={data.limit} goes" if data.limit else ""
        raise DataError(
            f"{data.path}: every row to train on is {there} ({data.columns.label}={str(labels.pop()).lower()}){first}; "
            f"kto needs both kinds: add {lacking} rows, or type {instead}"
        )


def get_prompt_key(row: Row) -> str:
    """What a row is known by when rows are held out: its prompt; of a conversation the turns before the last answer; else its text."""
    shown = row.get("prompt", row.get("text"))
    if shown is None:
        turns = row["messages"]
        last = max(at for at, turn in enumerate(turns) if turn["role"] == "assistant")
        shown = turns[:last]
        if len(shown) == 1 and set(shown[0]) == {"role", "content"} and shown[0]["role"] == "user":
            return shown[0]["content"]  # the same question as a prompt of plain text
    return shown if isinstance(shown, str) else json.dumps(shown, sort_keys=True)


def get_question_key(row: Row) -> tuple[str, str]:
    """What shares belong to: a prompt, asked of a group (empty where the data name none)."""
    return get_prompt_key(row), row.get("group", "")


def hold_out(rows: list[Row], fraction: float) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out, by prompt: a prompt's own digest decides, so the choice outlives seed and order."""
    prompts = sorted({get_prompt_key(row) for row in rows}, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    held = set(prompts[: max(1, round(fraction * len(prompts)))])
    return [row for row in rows if get_prompt_key(row) not in held], [row for row in rows if get_prompt_key(row) in held]


def estimate_shares(rows: list[Row], count: int) -> int:
    """Give rows with a belief but without shares the frequencies of their prompt's beliefs (in their group), and in `share_rows` the number
    of rows they were counted from; the number of such prompts."""
    lacking = [row for row in rows if "belief" in row and "probabilities" not in row]
    tally: dict[tuple[str, str], Counter[int]] = {}
    for row in lacking:
        tally.setdefault(get_question_key(row), Counter())[row["belief"]] += 1
    for row in lacking:
        seen = tally[get_question_key(row)]
        row["probabilities"] = [seen[index] / seen.total() for index in range(count)]
        row["share_rows"] = seen.total()
    return len(tally)
