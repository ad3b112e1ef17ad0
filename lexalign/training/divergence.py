"""Checks for NaN, infinity and a diverging loss. The errors name the rows of the step."""

import logging
import math
import statistics
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

from lexalign.config.schema import Train
from lexalign.distributed import collectives, sharding
from lexalign.errors import NotFinite

log = logging.getLogger(__name__)
WINDOW = 100
"""Number of steps for the running median."""
ENOUGH = 20
"""Number of steps that the running median needs at least."""
NAMED = 5
"""Number of rows that an error names."""
SEARCHED = 200_000
"""Number of rows of the data set that are searched."""
SHOWN = 80


class LossMonitor:
    """Compares the loss of each step with its running median, as `train.divergence` says."""

    def __init__(self, train: Train):
        self.train = train
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.above = 0

    def add(self, step: int, loss: float) -> None:
        """Add a step's loss. Raises NotFinite if the loss diverges and `train.divergence=stop`."""
        train = self.train
        if train.divergence == "ignore":
            return
        if len(self.losses) >= ENOUGH:
            median = statistics.median(self.losses)
            # For a positive median, the limit is `divergence_factor` times the median. Losses may also be negative.
            self.above = self.above + 1 if loss > median + (train.divergence_factor - 1) * abs(median) else 0
            if self.above == train.divergence_steps:
                message = (
                    f"step {step}: the loss ({loss:.4g}) is above {train.divergence_factor:g} times its running median ({median:.4g}) for "
                    f"{self.above} steps"
                )
                if train.divergence == "stop":
                    raise NotFinite(
                        f"{message}; the checkpoint before is kept. Type a smaller train.learning_rate in another output_dir, or "
                        "train.divergence=warn"
                    )
                log.warning("%s (train.divergence=warn)", message)
        self.losses.append(loss)


def find_bad_weights(model: Any) -> list[str]:
    """Names of the trained weights that hold NaN or infinity."""
    trained_weights = [(name, sharding.get_local_part(weight)) for name, weight in model.named_parameters() if weight.requires_grad]
    names = [name for name, weight in trained_weights if not bool(torch.isfinite(weight).all())]
    return sorted(set().union(*collectives.all_gather(names)))  # each process may hold a different part


def raise_not_finite(trainer: Any, what: str, batches: list[Any]) -> None:
    """Raise NotFinite with the step and the rows of its batches."""
    step = trainer.state.global_step + 1
    raise NotFinite(
        f"step {step}: {what}; nothing is saved of it, the checkpoint before is kept. "
        f"Rows of this step: {describe_rows(trainer, batches)}. "
        "Type a smaller train.learning_rate, or mend the rows"
    )


def describe_rows(trainer: Any, batches: list[Any]) -> str:
    """The rows of a step in words: the rows whose loss alone is not finite, or all rows if there is no such row."""
    try:
        indices = list(find_rows(trainer, batches))
        # With several processes, a loss can be computed only by all of them together.
        bad_indices = [at for at in indices if collectives.world_size() == 1 and not has_finite_loss(trainer, at)] or indices
        if not bad_indices:
            return "not found among those of the data set"
        text = "; ".join(f"{at} ({decode_start(trainer, at)!r})" for at in bad_indices[:NAMED])
        return text + (f" and {len(bad_indices) - NAMED} more" if len(bad_indices) > NAMED else "")
    except Exception as error:  # an error here must not hide the first problem
        log.debug("The rows cannot be named:", exc_info=error)
        return f"cannot be named ({type(error).__name__})"


def list_sequences(batch: Any) -> list[tuple[int, ...]]:
    """The ids of each sequence of a batch, without padding; empty if the batch has no sequences (answers are generated)."""
    if not isinstance(batch, dict) or "input_ids" not in batch:
        return []
    lengths = batch["attention_mask"].sum(1).tolist()
    return [tuple(ids[:length]) for ids, length in zip(batch["input_ids"].tolist(), lengths, strict=True)]


def find_rows(trainer: Any, batches: list[Any]) -> Iterator[int]:
    """Indices of the rows of the training set that are in these batches."""
    step_sequences = {ids for batch in batches for ids in list_sequences(batch)}
    for at in range(min(len(trainer.train_dataset), SEARCHED)):
        row_sequences = list_sequences(trainer.make_batch(trainer.train_dataset, [at]))
        if row_sequences and step_sequences.issuperset(row_sequences):
            yield at


def has_finite_loss(trainer: Any, at: int) -> bool:
    """Whether the loss of a row alone is finite."""
    with torch.no_grad(), trainer.trial():
        loss = trainer.compute_loss(trainer.model, trainer.make_batch(trainer.train_dataset, [at]))
    return math.isfinite(float(loss))


def decode_start(trainer: Any, at: int) -> str:
    """The beginning of a row as text."""
    text = trainer.processing_class.decode(
        list_sequences(trainer.make_batch(trainer.train_dataset, [at]))[0][:SHOWN], skip_special_tokens=True
    )
    return " ".join(text.split())[:SHOWN]
