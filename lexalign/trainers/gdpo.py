"""Group Distributional Preference Optimization (arXiv 2412.20299): calibration of the beliefs, and preference given the belief."""

from typing import Any

import torch

from lexalign import losses
from lexalign.data.rendering import Renderer
from lexalign.training.objective import LossOutput, Objective, Scores


class GdpoObjective(Objective):
    """`lexalign.losses.gdpo_loss` of each pair: calibration at the last context token, the belief's likelihood, DPO given the belief."""

    columns = ("probabilities",)
    shared_belief = True
    scores_belief = True
    reads_logits = True
    has_details = False

    def __init__(self, method: Any, renderer: Renderer):
        super().__init__(method, renderer)
        self.belief_tokens = torch.tensor(renderer.first_belief_tokens())

    def compute(self, scores: Scores) -> LossOutput:
        assert scores.logits is not None
        pairs, method = len(scores.logits), self.method
        mask = scores.belief_mask[:pairs]
        beliefs = (scores.log_probs[:pairs] * mask).sum(1) / mask.sum(1)
        calibration = losses.calibration_loss(scores.logits, self.belief_tokens.to(mask.device), scores.extras["probabilities"])
        chosen, rejected = scores.sums.chunk(2)
        preference = losses.dpo_loss(losses.preference_logits(chosen, rejected, *scores.reference["sums"].chunk(2)), beta=method.beta)
        weights = {name: getattr(method, name) for name in ("calibration_weight", "belief_weight", "preference_weight")}
        return LossOutput(
            loss=losses.gdpo_loss(calibration, beliefs, preference, **weights),
            rewards=method.beta * scores.log_ratios.detach(),
            terms={"loss/calibration": calibration, "loss/belief": -beliefs, "loss/preference": preference},
        )
