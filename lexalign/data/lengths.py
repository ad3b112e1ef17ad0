"""What only the tokenizer can tell of the rows: their lengths against `train.max_length`, and texts that hold its control tokens.

What would be cut is counted, what would teach nothing is left out and counted, and a text that the model would read as a command is named.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from lexalign.config.schema import Experiment, RewardMethod
from lexalign.data.rendering import Renderer, get_row_arguments
from lexalign.data.rows import PlacedRow, Row, Splits
from lexalign.data.template_changes import TemplateChanges, TemplateRefusal, count_rows
from lexalign.errors import DataError

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Lengths:
    """Token counts of the training rows."""

    total: int = 0
    longest: int = 0


class RowLengths(NamedTuple):
    """What the tokenizer tells of a row."""

    prompt: int
    """Tokens that are read before the first response."""
    longest: int
    """Tokens of its longest sequence."""
    total: int
    """Tokens of all its sequences."""
    largest: int
    """The largest id among them."""


Measure = Callable[[list[Row]], list[RowLengths]]
Look = Callable[[list[Row], list[RowLengths]], None]
"""Looks at the lengths of a split before rows are left out; raises DataError where the model cannot read them."""


def fit_lengths(
    splits: Splits,
    measured: Measure,
    *,
    max_length: int,
    drawn: int = 0,
    setting: str = "train.max_length",
    look: Look | None = None,
) -> Lengths:
    """Drop rows whose prompt alone fills `max_length`; count these and the ones that will be cut. Raises DataError if none is left.

    `measured` gives the `lengths` of rows, one by one or remembered; `setting` is what the user types to change `max_length`. `drawn` is
    the room that answers of the model's own take after each prompt; then a row's completion is not trained, and does not count.
    """
    found = Lengths()
    room = max_length - drawn
    full = f"{setting}={max_length}" + (f" less method.max_new_tokens={drawn}" if drawn else "")
    for name, rows in (("train", splits.train), ("held_out", splits.held_out)):
        kept, cut = [], 0
        trained = [take_prompt(row) for row in rows] if drawn else rows
        measurements = measured(trained)
        if look is not None:
            look(trained, measurements)
        for row, (prompt, longest, total, _) in zip(rows, measurements, strict=True):
            if prompt >= room:
                continue
            kept.append(row)
            cut += longest > max_length
            if name == "train":
                found.total += min(total, max_length) if "chosen" not in row else total
                found.longest = max(found.longest, min(longest + drawn, max_length))
        dropped = len(rows) - len(kept)
        splits.counts[f"{name}_rows_dropped_prompt_too_long"] = dropped
        splits.counts[f"{name}_rows_cut"] = cut
        if dropped:
            log.warning("%d of %d %s rows are left out: the prompt alone fills %s", dropped, len(rows), name, full)
        if cut:
            log.warning("%d of %d %s rows are longer than %s=%d and will be cut at the end", cut, len(rows), name, setting, max_length)
        if rows and not kept:
            raise DataError(f"every {name} row's prompt fills {full}; raise it")
        rows[:] = kept
    return found


def take_prompt(row: Row) -> Row:
    """A row without its answers."""
    prompt = PlacedRow(prompt=row["prompt"], **get_row_arguments(row))
    prompt.where = getattr(row, "where", None)
    return prompt


def count_drawn_tokens(experiment: Experiment) -> int:
    """Tokens that the model itself may add to each prompt while it is trained."""
    return experiment.method.max_new_tokens if isinstance(experiment.method, RewardMethod) else 0


def note_control_tokens(splits: Splits, tokenizer: Any) -> None:
    """Count and say the rows whose texts hold a special token of the tokenizer (`</s>`, `<|im_start|>`), which is not read as text.

    A `text` column is left alone: it is trained as it stands, and may have been put through a chat template on purpose.
    """
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    known = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)
    if not known:
        return
    pattern = re.compile("|".join(map(re.escape, known)))
    for name, rows in (("train", splits.train), ("held_out", splits.held_out)):
        found = [(number, row_found) for number, row in enumerate(rows, 1) if (row_found := find_first_match(row, pattern))]
        splits.counts[f"{name}_rows_with_control_tokens"] = len(found)
        if found:
            number, (column, token) = found[0]
            log.warning(
                "%d of %d %s rows hold a control token of the tokenizer in their text, and the model will read it as one; "
                "take it out (first: %r holds %r in row %d of them)",
                *(len(found), len(rows), name, column, token, number),
            )


def find_first_match(row: Row, pattern: re.Pattern[str]) -> tuple[str, str] | None:
    """The column and the token of the first control token in a row."""
    return next(((column, match.group()) for column, text in list_texts(row) if (match := pattern.search(text))), None)


def list_texts(row: Row) -> Iterator[tuple[str, str]]:
    """The texts of a row that become part of a prompt, a turn or a response, each with its column."""
    for column in ("prompt", "messages", "completion", "chosen", "rejected"):
        value = row.get(column, ())
        yield from [(column, value)] if isinstance(value, str) else ((column, turn["content"]) for turn in value)


def measure_one_by_one(encoder: Renderer) -> Measure:
    """Measures rows by rendering each, and says what the chat template did to them."""

    def measure(rows: list[Row]) -> list[RowLengths]:
        before, encoder.changes = encoder.changes, TemplateChanges()
        found = measure_rows(rows, encoder)
        settle_changes(encoder, encoder.changes, len(rows))
        before.merge(encoder.changes)
        encoder.changes = before
        return found

    return measure


def measure_rows(rows: list[Row], encoder: Renderer) -> list[RowLengths]:
    """`measure_lengths` of each row; a row that the template refuses is counted in the renderer's changes and has no length."""
    found = []
    for row in rows:
        try:
            found.append(measure_lengths(row, encoder))
        except TemplateRefusal as refusal:
            encoder.changes.add("refused", str(refusal))
            found.append(RowLengths(0, 0, 0, 0))
    return found


def settle_changes(encoder: Renderer, changes: TemplateChanges, rows: int) -> None:
    """Say what the chat template did to some rows; raises DataError where it refuses some, or loses text that may not be lost.

    Where most answers were trained behind less than the generation prompt, the renderer asks for answers behind the same from here on.
    """
    if problems := changes.list_problems(allow=encoder.data.allow_template_changes):
        raise DataError("\n".join(problems))
    changes.report(count_rows(rows))
    if changes.counts.get("prompt_differs", 0) * 2 > rows:
        encoder.cuts_prompt = True


def measure_lengths(row: Row, encoder: Renderer) -> RowLengths:
    """The lengths of a row as it is trained."""
    sequences = encoder.render_row(row)
    counts = [len(sequence.ids) for sequence in sequences]
    largest = max((max(sequence.ids, default=0) for sequence in sequences), default=0)
    # A conversation has no prompt to fill the room: where none of its answers is left, the trainer counts it as untrained.
    prompt = 0 if "messages" in row else len(sequences[0].context)
    return RowLengths(prompt=prompt, longest=max(counts), total=sum(counts), largest=largest)
