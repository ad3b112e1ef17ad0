"""Rendered rows become batches of spans for every method. Padding and cutting happen here only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from lexalign.cache.tokens import TokenCache
from lexalign.data.rendering import RenderedSequence, Renderer, pad_rows
from lexalign.data.rows import Row
from lexalign.fast_path.forward import IGNORED
from lexalign.training.objective import Objective


def render_row(row: Row, renderer: Renderer, objective: Objective) -> dict[str, Any]:
    """A row of the data set: its sequences in order, and the columns that the objective reads."""
    if objective.rows == "pair":
        sequences = list(renderer.render_pair(row, shared_belief=objective.shared_belief))
    else:
        sequences = [renderer.render_answer(row)]
    return {"sequences": [store_sequence(sequence) for sequence in sequences], **{name: row[name] for name in objective.columns}}


def store_sequence(sequence: RenderedSequence) -> dict[str, Any]:
    """A sequence as plain values."""
    return {name: getattr(sequence, name) for name in ("context", "belief", "response", "weights")}


def make_dataset(
    rows: Sequence[Row], objective: Objective, renderer: Renderer, tokens: TokenCache, *, max_length: int, step: int, packing: bool
) -> Dataset:
    """The data set of a trainer, made or read from the store. The objective prepares the rows; `packing` packs them.

    `step` is the number of rows of an optimizer step. The columns are the objective's and: `sequences`; `size`, the tokens that a row takes
    in a batch; `shortest`, the smallest number of response tokens within `max_length` among the row's sequences; `documents`, the
    number of data rows in it.
    """
    settings = {
        **renderer.settings(),
        **{name: getattr(objective, name) for name in ("rows", "shared_belief", "columns")},
        **objective.list_row_settings(step),
        "max_length": max_length,
        "packing": packing,
    }

    def make() -> Dataset:
        rendered_rows = objective.prepare_rows([render_row(row, renderer, objective) for row in rows], step=step, max_length=max_length)
        final_rows = pack_rows(rendered_rows, max_length) if packing and rendered_rows else rendered_rows
        for row in final_rows:
            row["size"] = count_computed_tokens(row["sequences"], max_length)
            row["shortest"] = min(count_response_tokens(sequence, max_length) for sequence in row["sequences"])
            row["documents"] = len(row["sequences"]) if objective.rows == "answer" else 1
        return (
            Dataset.from_list(final_rows)
            if final_rows
            else Dataset.from_dict({name: [] for name in ("sequences", "size", "shortest", "documents")})
        )

    return tokens.rows("spans", list(rows), settings, make)


def count_response_tokens(sequence: dict[str, Any], max_length: int) -> int:
    """The number of response tokens within `max_length`."""
    return max(0, min(len(sequence["response"]), max_length - len(sequence["context"]) - len(sequence["belief"])))


def count_computed_tokens(sequences: list[dict[str, Any]], max_length: int) -> int:
    """The number of tokens that a row takes in a batch. The two responses of a pair share their context; packed documents share nothing."""
    first = sequences[0]
    prefix_length = len(first["context"]) + len(first["belief"])
    if len(sequences) == 2 and sequences[1]["context"] == first["context"] and sequences[1]["belief"] == first["belief"] and prefix_length:
        return min(prefix_length, max_length) + sum(
            min(len(sequence["response"]), max(0, max_length - prefix_length)) for sequence in sequences
        )
    return sum(min(len(sequence["context"]) + len(sequence["belief"]) + len(sequence["response"]), max_length) for sequence in sequences)


def pack_rows(rows: list[dict[str, Any]], max_length: int) -> list[dict[str, Any]]:
    """Pack rows into rows of at most `max_length` tokens with TRL's best-fit packing. Each document stays a sequence."""
    from trl import pack_dataset

    documents = []
    for row in rows:
        (sequence,) = row["sequences"]
        ids, weights = sequence["context"] + sequence["belief"] + sequence["response"], list_weights(sequence)
        documents.append({"input_ids": ids, "weights": weights})
    packed_table = pack_dataset(Dataset.from_list(documents), max_length, "bfd")
    packed_rows = []
    for row in packed_table:
        sequences, at = [], 0
        for length in row["seq_lengths"]:
            ids, weights = row["input_ids"][at : at + length], row["weights"][at : at + length]
            start = next((place for place, weight in enumerate(weights) if weight), length)
            sequences.append({"context": ids[:start], "belief": [], "response": ids[start:], "weights": weights[start:]})
            at += length
        packed_rows.append({"sequences": sequences})
    return packed_rows


def list_weights(sequence: dict[str, Any]) -> list[float]:
    """The weight of each token of a sequence. It is 0 before the response."""
    response_weights = sequence["weights"]
    values = [1.0] * len(sequence["response"]) if response_weights is None else list(response_weights)
    return [0.0] * (len(sequence["context"]) + len(sequence["belief"])) + values


@dataclass(kw_only=True)
class SpanCollator:
    """Makes a batch of R sequences from B rows. Sequences are padded on the right and cut at the end. The chosen ones of pairs come first.

    input_ids, attention_mask, labels (R, T): a label is IGNORED where nothing is scored. weights (R, T): of response tokens, 0 elsewhere.
    belief_mask (R, T): 1 at belief tokens. context_lengths, starts (R,): where the context ends, and where the response begins.
    counts: `rows` B, `trained` weight of the tokens of a token-mean loss, `computed` tokens without padding. The objective's columns
    (B, ...). `mismatched`: a batch of sequences that are scored without gradient, if the rows have them.
    """

    pad: int
    max_length: int
    objective: Objective

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        is_pair = self.objective.rows == "pair"
        sequences = [sequence for part in zip(*(row["sequences"] for row in rows), strict=True) for sequence in part] if is_pair else [
            sequence for row in rows for sequence in row["sequences"]
        ]  # fmt: skip
        batch = self.collate(sequences, first=len(rows) if is_pair else len(sequences))
        batch |= {name: torch.tensor([row[name] for row in rows], dtype=torch.float32) for name in self.objective.columns}
        if "mismatched" in rows[0]:
            batch["mismatched"] = self.collate([row["mismatched"] for row in rows], first=0)
        return batch

    def collate(self, sequences: list[dict[str, Any]], *, first: int) -> dict[str, Any]:
        """The tensors of sequences. Beliefs and prompts are scored in the first `first` sequences only."""
        ids = [(sequence["context"] + sequence["belief"] + sequence["response"])[: self.max_length] for sequence in sequences]
        weights = [list_weights(sequence)[: self.max_length] for sequence in sequences]
        beliefs = [
            ([0] * len(sequence["context"]) + [1] * len(sequence["belief"]) + [0] * len(sequence["response"]))[: self.max_length]
            for sequence in sequences
        ]
        input_ids, attention = (torch.tensor(part) for part in pad_rows(ids, self.pad))
        weight = torch.tensor(pad_rows(weights, 0)[0], dtype=torch.float32)  # type: ignore[arg-type]
        belief = torch.tensor(pad_rows(beliefs, 0)[0])
        is_scored, trained_weight = weight > 0, weight.clone()
        if self.objective.scores_belief:
            is_scored[:first] |= belief[:first].bool()
        if self.objective.scores_prompts:
            is_scored[:first] |= attention[:first].bool()
            trained_weight = torch.where(is_scored & (weight == 0), 1.0, weight)
        contexts = [min(len(sequence["context"]), self.max_length) for sequence in sequences]
        starts = [min(len(sequence["context"]) + len(sequence["belief"]), self.max_length) for sequence in sequences]
        return {
            "input_ids": input_ids,
            "attention_mask": attention,
            "labels": input_ids.masked_fill(~is_scored, IGNORED),
            "weights": weight,
            "belief_mask": belief,
            "context_lengths": torch.tensor(contexts),
            "starts": torch.tensor(starts),
            "counts": {"rows": first, "trained": float(trained_weight[:first, 1:].sum()), "computed": sum(map(len, ids))},
        }


def list_spans(batch: dict[str, Tensor]) -> list[tuple[list[int], list[int], list[float] | None]]:
    """For each sequence of a batch: the ids before the response, the response's ids, and its weights (None if all are 1)."""
    lengths, starts = batch["attention_mask"].sum(1).tolist(), batch["starts"].tolist()
    spans = []
    for row, weights, length, start in zip(batch["input_ids"].tolist(), batch["weights"].tolist(), lengths, starts, strict=True):
        response_weights = weights[start:length]
        spans.append((row[:start], row[start:length], None if all(weight == 1 for weight in response_weights) else response_weights))
    return spans


def list_row_spans(row: dict[str, Any], max_length: int) -> list[tuple[list[int], list[int], list[float] | None]]:
    """The result of `list_spans` for the sequences of a row. The mismatched sequence comes last."""
    spans = []
    for sequence in [*row["sequences"], *([row["mismatched"]] if "mismatched" in row else [])]:
        prefix = (sequence["context"] + sequence["belief"])[:max_length]
        room = max_length - len(prefix)
        weights = sequence["weights"][:room] if sequence["weights"] is not None else None
        spans.append((prefix, sequence["response"][:room], None if weights is None or all(weight == 1 for weight in weights) else weights))
    return spans
