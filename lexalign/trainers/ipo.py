"""Identity preference optimization (arXiv 2310.12036): DPO's pairs and reference, with a squared loss of mean log-ratios."""

from lexalign.trainers.dpo import DpoObjective


class IpoObjective(DpoObjective):
    """`lexalign.losses.ipo_loss`, which is dpo's loss_type=ipo."""
