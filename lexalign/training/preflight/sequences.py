"""The sequences of a trainer's batches in the form that the loss uses: the tokens, and which of them are trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lexalign.fast_path.forward import IGNORED


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """A sequence of a row: its tokens and whether each is trained (scored by the loss)."""

    ids: list[int]
    trained: list[bool]

    @property
    def trained_ids(self) -> list[int]:
        """The tokens that are trained."""
        return [token for token, scored in zip(self.ids, self.trained, strict=True) if scored]


def list_row_sequences(trainer: Any, dataset: Any) -> Iterator[list[Sequence]]:
    """The sequences of each row of a trainer's data set (two for a pair). Nothing if the trainer generates its answers."""
    if getattr(trainer, "generates", False):
        return
    for row in dataset:
        yield list_batch_sequences(trainer.data_collator([row]))


def list_batch_sequences(batch: dict[str, Any]) -> list[Sequence]:
    """The sequences of a batch without padding. A token is trained if it has a label."""
    lengths = batch["attention_mask"].sum(1).tolist()
    return [
        Sequence(ids=ids[:length], trained=[label != IGNORED for label in labels[:length]])
        for ids, labels, length in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), lengths, strict=True)
    ]
