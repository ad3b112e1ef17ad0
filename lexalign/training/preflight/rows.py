"""Every training row as the loss will see it: how much of it is trained, and the rows in which something is wrong."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lexalign.config.schema import Preflight
from lexalign.training.preflight.sequences import Sequence, list_row_sequences

NAMED = 3
"""Rows named where too many are wrong."""
SHOWN = 60
"""Characters of a row shown with its number."""


@dataclass(kw_only=True)
class RowFindings:
    """What the rows are like; `wrong` holds, for each threshold, the numbers of the rows it counts."""

    lengths: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    wrong: dict[str, list[int]] = field(default_factory=dict)
    examples: list[list[Sequence]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)

    def facts(self) -> dict[str, str]:
        """The rows in a few lines."""
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
    """How a sequence has to begin: never with two BOS, and with one where the tokenizer itself puts one (`expected`)."""

    bos: int | None
    expected: bool

    @classmethod
    def of(cls, tokenizer: Any) -> "SequenceStart":
        """What this tokenizer does."""
        bos = tokenizer.bos_token_id
        return cls(bos=bos, expected=bos is not None and tokenizer("a")["input_ids"][:1] == [bos])

    def wrong(self, ids: list[int]) -> bool:
        """Whether a sequence begins otherwise."""
        return self.bos is not None and (ids[:2] == [self.bos, self.bos] or (self.expected and ids[:1] != [self.bos]))


def inspect_rows(trainer: Any, tokenizer: Any, endings: set[int], *, max_length: int) -> RowFindings:
    """Walk through all training rows."""
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
    """The thresholds that count this row."""
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
    """Each threshold that the rows are over, with the first rows named and what to type. `counts` knows how many rows were cut."""
    left_out_rows = counts.get("train_rows_without_trained_token", 0)
    row_count, wrong = len(findings.lengths), findings.wrong
    # A row that fills max_length need not be cut, and packed rows all fill it: who cut them has counted.
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
    """A share in hundredths that allows this one."""
    return min(1.0, -(-share * 100 // 1) / 100)


def summarize(values: list[int]) -> str:
    """Median, 99th percentile and largest."""
    ordered = sorted(values)
    return f"median {statistics.median(ordered):,.0f}, p99 {ordered[int(0.99 * (len(ordered) - 1))]:,}, longest {ordered[-1]:,}"
