"""Conservative DPO with a soft label for each pair. gdpo_soft is compared with it."""

from lexalign import losses
from lexalign.trainers.gdpo_soft import GdpoSoftObjective


class CdpoSoftObjective(GdpoSoftObjective):
    """`lexalign.losses.conservative_loss` of each pair and its soft label."""

    pair_loss = staticmethod(losses.conservative_loss)
