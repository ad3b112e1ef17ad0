"""DPO on pairs whose preference is a probability: geometric-averaged DPO (arXiv 2409.06691)."""

from lexalign import losses
from lexalign.trainers.dpo import compute_difference
from lexalign.training.objective import LossOutput, Objective, Scores


class GdpoSoftObjective(Objective):
    """`lexalign.losses.geometric_loss` of each pair and its soft label."""

    columns = ("soft_label",)
    has_details = False
    pair_loss = staticmethod(losses.geometric_loss)

    def compute(self, scores: Scores) -> LossOutput:
        loss = self.pair_loss(compute_difference(scores), scores.extras["soft_label"], beta=self.method.beta)
        return LossOutput(loss=loss, rewards=self.method.beta * scores.log_ratios.detach(), terms={"loss/preference": loss})
