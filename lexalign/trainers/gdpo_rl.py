"""Group reward-Decoupled normalization Policy Optimization (arXiv 2601.05242): TRL's GRPOTrainer, each reward normalised separately."""

from lexalign.trainers.grpo import GrpoTrainer


class GdpoRlTrainer(GrpoTrainer):
    """Each reward is normalised within each group. The weighted sum is then normalised over the step (arXiv 2601.05242)."""

    aggregation = "normalize_then_sum"
