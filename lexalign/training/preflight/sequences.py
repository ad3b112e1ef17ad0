"""The sequences that a trainer's batches hold, as the loss sees them: which tokens, and which of these are trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lexalign.fast_path.forward import IGNORED

LABELLED = ("", "chosen_", "rejected_", "completion_")
"""What TRL's collators put before `input_ids` and `labels`."""
BATCH = 64


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
    """The sequences of each row of a trainer's data set (two for a pair); nothing where its batches hold no labels (it generates)."""
    if getattr(trainer, "generates", False):
        return
    trainer._set_signature_columns_if_needed()
    columns = [name for name in trainer._signature_columns or dataset.column_names if name in dataset.column_names]
    read = dataset.select_columns(columns)
    for start in range(0, len(read), BATCH):
        rows = [read[at] for at in range(start, min(start + BATCH, len(read)))]
        yield from list_batch_sequences(trainer.data_collator(rows), len(rows))


def list_batch_sequences(batch: dict[str, Any], rows: int) -> Iterator[list[Sequence]]:
    """The sequences of each row of a batch, whichever collator made it."""
    found: list[Sequence] = []
    for prefix in LABELLED:
        ids = batch.get(f"{prefix}input_ids")
        if ids is None:
            continue
        scored = mark_scored_tokens(batch, prefix)
        if scored is None:
            return
        if prefix == "" and "position_ids" in batch and len(ids) == 1 != rows:
            yield from ([one] for one in split_documents(ids[0], scored[0], batch["position_ids"][0]))
            return
        mask = batch.get(f"{prefix}attention_mask")
        for at in range(len(ids)):
            real = mask[at].bool() if mask is not None else slice(None)
            found.append(Sequence(ids=ids[at][real].tolist(), trained=scored[at][real].tolist()))
    # The rejected sequences follow all of the chosen ones.
    yield from (found[at::rows] for at in range(rows) if found)


def mark_scored_tokens(batch: dict[str, Any], prefix: str) -> Tensor | None:
    """Which tokens the loss scores, as booleans in the shape of the ids."""
    if f"{prefix}labels" in batch:
        return batch[f"{prefix}labels"] != IGNORED
    if f"{prefix}completion_mask" not in batch:
        return None
    scored = batch[f"{prefix}completion_mask"].bool()
    if "belief_mask" in batch:
        believed = batch["belief_mask"].bool().clone()
        believed[len(believed) // 2 :] = False  # the rejected rows repeat the belief
        scored = scored | believed
    return scored


def split_documents(ids: Tensor, scored: Tensor, positions: Tensor) -> Iterator[Sequence]:
    """Sequences laid one after the other without padding: each begins where the positions do."""
    starts = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
    for start, end in zip(starts, starts[1:], strict=False):
        yield Sequence(ids=ids[start:end].tolist(), trained=scored[start:end].tolist())
