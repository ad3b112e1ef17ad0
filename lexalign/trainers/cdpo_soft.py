"""Conservative DPO with a label of its own for each pair: what gdpo_soft is compared with."""

from lexalign import losses
from lexalign.trainers.gdpo_soft import GdpoSoftObjective


class CdpoSoftObjective(GdpoSoftObjective):
    """`lexalign.losses.conservative_loss` of each pair and its soft label."""

    pair_loss = staticmethod(losses.conservative_loss)
