"""Kahneman-Tversky optimization (arXiv 2402.01306): single responses, each desirable or not."""

import logging
from typing import Any

from torch import Tensor

from lexalign import losses
from lexalign.data.rows import Row
from lexalign.distributed import collectives
from lexalign.training.objective import LossOutput, Objective, Scores

log = logging.getLogger(__name__)
BALANCED = (1.0, 4 / 3)
"""The range of λ_D·n_D / (λ_U·n_U) in Eq. 8 of the paper."""


class KtoObjective(Objective):
    """`lexalign.losses.kto_loss` of each row.

    The KL divergence is estimated once for each optimizer step, from each prompt of the step and the response of another row. It does not
    depend on how the step is split into batches. The rows of a step must be fixed before training, so the seed draws the order of the rows
    once for all epochs.
    """

    rows = "answer"
    columns = ("label",)
    is_sequential = True

    def prepare_rows(self, rows: list[dict[str, Any]], *, step: int, max_length: int) -> list[dict[str, Any]]:
        """Add to each row the response of the previous row in its step. The first row gets that of the last row."""
        for first in range(0, len(rows), step):
            step_rows = rows[first : first + step]
            sequences = [row["sequences"][0] for row in step_rows]
            for at, row in enumerate(step_rows):
                row["mismatched"] = {**sequences[at], "response": sequences[at - 1]["response"], "weights": sequences[at - 1]["weights"]}
        return rows

    def list_row_settings(self, step: int) -> dict[str, Any]:
        return {"step": step}

    def check_rows(self, dataset: Any, rows: list[Row], *, name: str, counts: dict[str, int], max_length: int) -> None:
        if name == "train":
            report_balance(rows, self.method)
        last = dataset[len(dataset) - 1]
        if last["mismatched"] == last["sequences"][0]:
            log.warning("The last step of the %s rows holds one row: its KL estimate is that row's own, so it teaches little", name)

    def measure_step(self, trainer: Any, batches: list[dict[str, Any]]) -> dict[str, Tensor]:
        """z: the mean log-ratio of the mismatched responses of the step, at least 0."""
        ratios = [trainer.score_mismatched(batch["mismatched"]) for batch in batches]
        sums = collectives.all_gather((float(sum(part.sum() for part in ratios)), sum(len(part) for part in ratios)))
        total, count = (sum(part[at] for part in sums) for at in (0, 1))
        return {"kl": ratios[0].new_tensor(max(0.0, total / count))}

    def compute(self, scores: Scores) -> LossOutput:
        kl, labels = scores.step["kl"], scores.extras["label"]
        weights = {name: getattr(self.method, name) for name in ("desirable_weight", "undesirable_weight")}
        loss = losses.kto_loss(scores.log_ratios, labels, kl, beta=self.method.beta, **weights)
        return LossOutput(loss=loss, rewards=self.method.beta * scores.log_ratios.detach(), terms={"kl": kl[None]})


def report_balance(rows: list[Row], method: Any) -> None:
    """Log the number of desirable and undesirable rows, and whether their weights balance them."""
    desirable = sum(row["label"] for row in rows)
    undesirable = len(rows) - desirable
    ratio = method.desirable_weight * desirable / (method.undesirable_weight * undesirable)
    counts = f"{desirable} desirable and {undesirable} undesirable rows, weighted {ratio:.2f} to 1"
    if BALANCED[0] <= round(ratio, 2) <= round(BALANCED[1], 2):
        log.info("KTO: %s", counts)
        return
    unweighted_ratio = ratio / method.desirable_weight
    low, high = (bound / unweighted_ratio for bound in BALANCED)
    log.warning("KTO: %s; the paper wants 1 to 1.33: method.desirable_weight=%.2f to %.2f would make it so", counts, low, high)
