"""Losses that couple the rows of an optimizer step. They are exact for every split of the step into batches.

The whole step is first scored without gradient. Then each batch computes the loss of all rows, and only its own rows have a gradient. The
gradients of the batches add up to that of the whole step (chain rule at the same weights). The cost is one more forward for each batch.
"""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from lexalign.distributed import collectives
from lexalign.training.objective import Scores


@dataclass(kw_only=True)
class StepScores:
    """The sums, lengths and reference sums of all sequences of a step, (3, R_i) for each batch of all processes."""

    parts: list[Tensor]
    next: int
    """The index of the next batch's part."""

    def replace_next(self, scores: Scores) -> Scores:
        """The scores of the step. The part of the next batch is replaced by `scores`, which have a gradient."""
        parts = list(self.parts)
        parts[self.next] = stack_scores(scores)
        self.next += 1
        chosen, rejected = zip(*(part.chunk(2, dim=1) for part in parts), strict=True)
        sums, lengths, reference = torch.cat([*chosen, *rejected], dim=1)
        return Scores(
            log_probs=(sums / lengths)[:, None],
            weights=lengths[:, None],
            belief_mask=torch.zeros_like(lengths)[:, None],
            extras={},
            reference={"sums": reference},
        )


def stack_scores(scores: Scores) -> Tensor:
    """(3, R): sums, lengths and reference sums."""
    reference = scores.reference.get("sums")
    return torch.stack((scores.sums, scores.lengths, torch.zeros_like(scores.sums) if reference is None else reference))


@torch.no_grad()
def score_step(trainer: Any, batches: list[Any]) -> StepScores:
    """The scores of the batches of a step, of all processes."""
    own_parts = []
    totals = trainer.count_totals(batches, everywhere=False)
    for batch in batches:
        batch = send_to_device(batch, trainer.args.device)
        own_parts.append(stack_scores(trainer.collect_scores(trainer.score(trainer.model, batch, details=False), batch, totals)))
    process_parts = collectives.all_gather([part.cpu() for part in own_parts])
    next_part = sum(len(parts) for parts in process_parts[: collectives.rank()])
    device = own_parts[0].device
    return StepScores(parts=[part.to(device) for parts in process_parts for part in parts], next=next_part)
