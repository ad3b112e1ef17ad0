"""Checks every training row in the form that the loss uses: the number of trained tokens, and faults."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lexalign.config.schema import Preflight
from lexalign.training.preflight.sequences import Sequence, list_row_sequences

NAMED = 3
"""Number of rows that an error names."""
SHOWN = 60
"""Number of characters of a row that an error shows."""


@dataclass(kw_only=True)
class RowFindings:
    """Lengths, trained tokens and faults of the rows. `wrong` holds the indices of the faulty rows for each threshold."""

    lengths: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    wrong: dict[str, list[int]] = field(default_factory=dict)
    examples: list[list[Sequence]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)

    def facts(self) -> dict[str, str]:
        """A summary of the rows, by name."""
        if not self.lengths:
            return {"rows": "none to look at: the trainer writes its own responses"}
        return {
            "rows": f"{len(self.lengths):,}",
            "tokens a row": summarize(self.lengths),
            "trained tokens a row": summarize(self.trained),
            **{name.removeprefix("max_").replace("_", " "): f"{len(rows):,} rows" for name, rows in self.wrong.items() if rows},
        }


@dataclass(frozen=True, kw_only=True)
class SequenceStart:
    """The start that a sequence must have: never two BOS, and one BOS if the tokenizer adds one (`expected`)."""

    bos: int | None
    expected: bool

    @classmethod
    def of(cls, tokenizer: Any) -> "SequenceStart":
        """The start that this tokenizer makes."""
        bos = tokenizer.bos_token_id
        return cls(bos=bos, expected=bos is not None and tokenizer("a")["input_ids"][:1] == [bos])

    def wrong(self, ids: list[int]) -> bool:
        """Whether a sequence has a wrong start."""
        return self.bos is not None and (ids[:2] == [self.bos, self.bos] or (self.expected and ids[:1] != [self.bos]))


def inspect_rows(trainer: Any, tokenizer: Any, endings: set[int], *, max_length: int) -> RowFindings:
    """Inspect all training rows."""
    findings = RowFindings(
        wrong={name: [] for name in ("max_truncated", "max_untrained", "max_without_ending", "max_wrong_bos", "max_equal_pairs")}
    )
    start = SequenceStart.of(tokenizer)
    for number, row in enumerate(list_row_sequences(trainer, trainer.train_dataset)):
        findings.lengths.append(sum(len(sequence.ids) for sequence in row))
        findings.trained.append(sum(sum(sequence.trained) for sequence in row))
        if len(findings.examples) < NAMED:
            findings.examples.append(row)
        for name in list_faults(row, endings, start, max_length):
            rows = findings.wrong[name]
            rows.append(number)
            if len(rows) <= NAMED:
                findings.names[number] = tokenizer.decode(row[0].ids[:SHOWN])[:SHOWN]
    return findings


def list_faults(row: list[Sequence], endings: set[int], start: SequenceStart, max_length: int) -> Iterator[str]:
    """The names of the thresholds that count this row as faulty."""
    is_cut = any(len(sequence.ids) >= max_length for sequence in row)
    if is_cut:
        yield "max_truncated"
    if not all(any(sequence.trained) for sequence in row):
        yield "max_untrained"
    if not is_cut and not all(endings & set(sequence.trained_ids) for sequence in row):
        yield "max_without_ending"
    if any(start.wrong(sequence.ids) for sequence in row):
        yield "max_wrong_bos"
    if len(row) == 2 and row[0] == row[1]:
        yield "max_equal_pairs"


def describe_problems(findings: RowFindings, settings: Preflight, counts: dict[str, int], *, max_length: int) -> list[str]:
    """A text for each threshold that the rows exceed, with the first rows and what to type. `counts` holds the number of cut rows."""
    left_out_rows = counts.get("train_rows_without_trained_token", 0)
    row_count, wrong = len(findings.lengths), findings.wrong
    # A row of max_length tokens may not be cut, and all packed rows have that length. So the code that cuts the rows counts them.
    thresholds = [
        ("max_truncated", settings.max_truncated, counts["train_rows_cut"], counts["train_rows"],
         f"are longer than train.max_length={max_length}, so their ends are cut; raise it"),
        ("max_untrained", settings.max_untrained, len(wrong["max_untrained"]) + left_out_rows, row_count + left_out_rows,
         "have no token that is trained; look at train.max_length and at data.columns"),
        ("max_without_ending", settings.max_without_ending, len(wrong["max_without_ending"]), row_count,
         "never show the model how a response ends; look at the tokenizer's EOS and at its chat template"),
        ("max_wrong_bos", settings.max_wrong_bos, len(wrong["max_wrong_bos"]), row_count,
         "do not begin with exactly one BOS; look at the chat template and at BOS in the data"),
        ("max_equal_pairs", settings.max_equal_pairs, len(wrong["max_equal_pairs"]), row_count,
         "are pairs whose chosen and rejected are the same tokens; raise train.max_length, or mend the data"),
    ]  # fmt: skip
    problems = []
    for name, allowed, count, total, advice in thresholds:
        share = count / max(1, total)
        if share > allowed:
            first = "; ".join(f"row {number + 1} ({findings.names[number]!r}…)" for number in wrong[name][:NAMED])
            allow = f"or allow it with preflight.{name}={round_up_share(share)}"
            problems.append(f"{count:,} of {total:,} training rows {advice}, {allow}" + (f": {first}" if first else ""))
    return problems


def round_up_share(share: float) -> float:
    """The share, rounded up to hundredths."""
    return min(1.0, -(-share * 100 // 1) / 100)


def summarize(values: list[int]) -> str:
    """Median, 99th percentile and largest value, in words."""
    ordered = sorted(values)
    return f"median {statistics.median(ordered):,.0f}, p99 {ordered[int(0.99 * (len(ordered) - 1))]:,}, longest {ordered[-1]:,}"
