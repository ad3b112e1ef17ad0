"""Supervised fine-tuning: the likelihood of the trained tokens. Each token of an optimizer step counts once."""

import logging
from typing import Any

from lexalign.data.rows import Row
from lexalign.errors import DataError
from lexalign.training.objective import LossOutput, Objective, Scores

log = logging.getLogger(__name__)


class SftObjective(Objective):
    """The mean negative log-likelihood of a trained token. `adapter` chooses full training, LoRA or QLoRA."""

    rows = "answer"
    reference = None
    keeps_dropout = True

    def compute(self, scores: Scores) -> LossOutput:
        return LossOutput(token_loss=-(scores.log_probs * scores.weights))

    def prepare_rows(self, rows: list[dict[str, Any]], *, step: int, max_length: int) -> list[dict[str, Any]]:
        """Leave out rows that have no trained token after they are cut."""
        return [row for row in rows if is_trained(row["sequences"][0], max_length)]

    def check_rows(self, dataset: Any, rows: list[Row], *, name: str, counts: dict[str, int], max_length: int) -> None:
        left_out = len(rows) - sum(dataset["documents"])
        counts[f"{name}_rows_without_trained_token"] = left_out
        problem = f"{left_out} of {len(rows)} {name} rows have no trained token within train.max_length={max_length}"
        if not len(dataset):
            raise DataError(f"{problem}, so there is nothing to {name}; raise it, or look at method.loss_on")
        if left_out:
            log.warning("%s; they are left out", problem)


def is_trained(sequence: dict[str, Any], max_length: int) -> bool:
    """Whether a sequence has a trained token within `max_length`. The first token of all is never trained: nothing predicts it."""
    prefix_length = len(sequence["context"]) + len(sequence["belief"])
    weights = sequence["weights"] if sequence["weights"] is not None else [1.0] * len(sequence["response"])
    return any(weights[max(0, 1 - prefix_length) : max(0, max_length - prefix_length)])
