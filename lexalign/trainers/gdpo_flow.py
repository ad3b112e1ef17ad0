"""GFlowNet-DPO (arXiv 2410.15096): responses are flows of tokens that end in proportion to a reward. This keeps the answers diverse."""

import logging
from functools import cached_property
from typing import Any

import torch

from lexalign import losses
from lexalign.data.rows import Row
from lexalign.training.objective import LossOutput, Objective, Scores

log = logging.getLogger(__name__)


class GdpoFlowObjective(Objective):
    """`lexalign.losses.flow_loss` of each response. ⊤ is the token that ends a response here."""

    reference = "tokens"
    scores_end = True
    has_details = False

    @cached_property
    def end_token(self) -> int:  # type: ignore[override]
        return self.renderer.end()[0]

    @property
    def reference_temperature(self) -> float:  # type: ignore[override]
        """γ."""
        return self.method.gamma

    def check_rows(self, dataset: Any, rows: list[Row], *, name: str, counts: dict[str, int], max_length: int) -> None:
        if short := sum(length < 2 for length in dataset["shortest"]):
            log.warning(
                "%d of %d %s rows have a response that is one token long: it has no step and teaches nothing", short, len(rows), name
            )

    def compute(self, scores: Scores) -> LossOutput:
        assert scores.ends is not None
        actions, ends = scores.reference["actions"], scores.reference["ends"]
        rejected = torch.arange(len(actions), device=actions.device) >= len(actions) // 2
        terminal = self.method.rejected_reward * rejected.to(actions)
        flows = losses.flow_loss(scores.log_probs, scores.ends, actions, ends, scores.weights, terminal, alpha=self.method.alpha)
        chosen, rejected_flows = flows.chunk(2)
        return LossOutput(
            loss=(chosen + rejected_flows) / 2,
            rewards=(scores.log_probs.detach() - actions).sum(1),  # the log-ratios, in nats: this loss has no beta
            terms={"loss/chosen_flow": chosen, "loss/rejected_flow": rejected_flows},
        )
