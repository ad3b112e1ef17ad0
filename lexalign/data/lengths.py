"""Checks of rows that need the tokenizer: their lengths against `train.max_length`, and control tokens in their texts.

Rows that will be cut are counted. Rows that would teach nothing are left out and counted. Texts with control tokens are reported.
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
    """Token counts of a row."""

    prompt: int
    """Number of tokens before the first response."""
    longest: int
    """Number of tokens in its longest sequence."""
    total: int
    """Number of tokens in all its sequences."""
    largest: int
    """The largest token id in its sequences."""


Measure = Callable[[list[Row]], list[RowLengths]]
Look = Callable[[list[Row], list[RowLengths]], None]
"""Checks the lengths of a split before rows are left out; raises DataError if the model cannot read them."""


def fit_lengths(
    splits: Splits,
    measured: Measure,
    *,
    max_length: int,
    drawn: int = 0,
    setting: str = "train.max_length",
    look: Look | None = None,
) -> Lengths:
    """Drop rows whose prompt alone fills `max_length`. Count these rows and the rows that will be cut. Raises DataError if none is left.

    `measured` returns the lengths of rows. `setting` is the setting that the user types to change `max_length`. `drawn` is the number of
    tokens that the model may write after each prompt. If it is not 0, a row's completion is not trained and does not count.
    """
    lengths = Lengths()
    prompt_limit = max_length - drawn
    limit_text = f"{setting}={max_length}" + (f" less method.max_new_tokens={drawn}" if drawn else "")
    for name, rows in (("train", splits.train), ("held_out", splits.held_out)):
        kept_rows, cut_count = [], 0
        trained_rows = [take_prompt(row) for row in rows] if drawn else rows
        measurements = measured(trained_rows)
        if look is not None:
            look(trained_rows, measurements)
        for row, (prompt, longest, total, _) in zip(rows, measurements, strict=True):
            if prompt >= prompt_limit:
                continue
            kept_rows.append(row)
            cut_count += longest > max_length
            if name == "train":
                lengths.total += min(total, max_length) if "chosen" not in row else total
                lengths.longest = max(lengths.longest, min(longest + drawn, max_length))
        dropped_count = len(rows) - len(kept_rows)
        splits.counts[f"{name}_rows_dropped_prompt_too_long"] = dropped_count
        splits.counts[f"{name}_rows_cut"] = cut_count
        if dropped_count:
            log.warning("%d of %d %s rows are left out: the prompt alone fills %s", dropped_count, len(rows), name, limit_text)
        if cut_count:
            log.warning(
                "%d of %d %s rows are longer than %s=%d and will be cut at the end", cut_count, len(rows), name, setting, max_length
            )
        if rows and not kept_rows:
            raise DataError(f"every {name} row's prompt fills {limit_text}; raise it")
        rows[:] = kept_rows
    return lengths


def take_prompt(row: Row) -> Row:
    """A row without its answers."""
    prompt = PlacedRow(prompt=row["prompt"], **get_row_arguments(row))
    prompt.where = getattr(row, "where", None)
    return prompt


def count_drawn_tokens(experiment: Experiment) -> int:
    """The number of tokens that the model may write after each prompt in training."""
    return experiment.method.max_new_tokens if isinstance(experiment.method, RewardMethod) else 0


def note_control_tokens(splits: Splits, tokenizer: Any) -> None:
    """Count and report the rows whose texts hold a special token of the tokenizer (`</s>`, `<|im_start|>`), which is not read as text.

    The `text` column is not checked: it is trained unchanged, and may have been written with a chat template on purpose.
    """
    added_tokens = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    control_tokens = sorted({*tokenizer.all_special_tokens, *added_tokens}, key=len, reverse=True)
    if not control_tokens:
        return
    pattern = re.compile("|".join(map(re.escape, control_tokens)))
    for name, rows in (("train", splits.train), ("held_out", splits.held_out)):
        matches = [(number, match) for number, row in enumerate(rows, 1) if (match := find_first_match(row, pattern))]
        splits.counts[f"{name}_rows_with_control_tokens"] = len(matches)
        if matches:
            number, (column, token) = matches[0]
            log.warning(
                "%d of %d %s rows hold a control token of the tokenizer in their text, and the model will read it as one; "
                "take it out (first: %r holds %r in row %d of them)",
                *(len(matches), len(rows), name, column, token, number),
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
    """A function that renders each row to measure it, and reports how the chat template changed the rows."""

    def measure(rows: list[Row]) -> list[RowLengths]:
        earlier_changes, encoder.changes = encoder.changes, TemplateChanges()
        lengths = measure_rows(rows, encoder)
        settle_changes(encoder, encoder.changes, len(rows))
        earlier_changes.merge(encoder.changes)
        encoder.changes = earlier_changes
        return lengths

    return measure


def measure_rows(rows: list[Row], encoder: Renderer) -> list[RowLengths]:
    """`measure_lengths` of each row; a row that the template refuses is counted in the renderer's changes and has no length."""
    lengths = []
    for row in rows:
        try:
            lengths.append(measure_lengths(row, encoder))
        except TemplateRefusal as refusal:
            encoder.changes.add("refused", str(refusal))
            lengths.append(RowLengths(0, 0, 0, 0))
    return lengths


def settle_changes(encoder: Renderer, changes: TemplateChanges, rows: int) -> None:
    """Report how the chat template changed rows. Raises DataError if it refuses rows, or loses text that must be kept.

    If most answers follow less than the generation prompt in training, the renderer cuts the generation prompt in the same way from now on.
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
    # A conversation has no prompt that could fill the limit. If the cut leaves no answer, the trainer counts the row as untrained.
    prompt = 0 if "messages" in row else len(sequences[0].context)
    return RowLengths(prompt=prompt, longest=max(counts), total=sum(counts), largest=largest)
