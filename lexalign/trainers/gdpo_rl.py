"""Group reward-Decoupled normalization Policy Optimization (arXiv 2601.05242): TRL's GRPOTrainer, each reward normalised by itself."""

from lexalign.trainers.grpo import GrpoTrainer


class GdpoRlTrainer(GrpoTrainer):
    """Each reward normalised within each group, then the weighted sum, normalised over the step (arXiv 2601.05242)."""

    aggregation = "normalize_then_sum"
