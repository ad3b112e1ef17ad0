"""Metrics between two log lines. They are kept as sums and counts, so that each row or token counts once in any batch and process."""

from typing import Any

import torch
from torch import Tensor

from lexalign.distributed import collectives


class MetricWindow:
    """Means by name since the last log line. Values stay on their device until they are read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.pairs: list[Tensor] = []
        self.sums: dict[str, list[float]] = {}

    def add(self, name: str, values: Tensor, count: Tensor | float | None = None) -> None:
        """Add values of any shape. `count` is the number that their sum is divided by; None means the number of values."""
        values = values.detach().float()
        total = values.numel() if count is None else count
        weight = total.detach().float() if isinstance(total, Tensor) else values.new_tensor(float(total))
        self.names.append(name)
        self.pairs.append(torch.stack((values.sum(), weight.sum())))

    def settle(self) -> None:
        """Add the waiting values to the sums, in one transfer from the device."""
        if self.pairs:
            for name, (value, count) in zip(self.names, torch.stack(self.pairs).double().tolist(), strict=True):
                sums = self.sums.setdefault(name, [0.0, 0.0])
                sums[0] += value
                sums[1] += count
        self.names, self.pairs = [], []

    def means(self) -> dict[str, float]:
        """The mean of each name over this process. Names with a count of 0 are left out."""
        self.settle()
        return {name: value / count for name, (value, count) in self.sums.items() if count}

    def gathered_means(self) -> dict[str, float]:
        """The mean of each name over all processes. Every process must call it."""
        self.settle()
        if collectives.world_size() == 1:
            return self.means()
        totals: dict[str, list[float]] = {}
        for part in collectives.all_gather(self.sums):
            for name, (value, count) in part.items():
                sums = totals.setdefault(name, [0.0, 0.0])
                sums[0] += value
                sums[1] += count
        return {name: value / count for name, (value, count) in totals.items() if count}

    def clear(self) -> None:
        """Remove all values."""
        self.names, self.pairs, self.sums = [], [], {}

    def state(self) -> dict[str, Any]:
        """The sums, as a checkpoint saves them."""
        self.settle()
        return {name: list(values) for name, values in self.sums.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the sums that a checkpoint saved."""
        self.clear()
        self.sums = {name: list(values) for name, values in state.items()}


def note_details(window: MetricWindow, scores: Any, weights: Tensor, groups: dict[str, Tensor]) -> None:
    """Add the entropy and accuracy of the response tokens, and the mean logits of each group of rows.

    `scores` has `entropy`, `mean_logits`, `is_top1` (R, T-1). `weights` (R, T-1) is above 0 at response tokens. `groups` are row indices by
    name (chosen, rejected). The accuracy is that of the chosen rows, or of all rows if there is no such group.
    """
    is_response = weights > 0
    window.add("entropy", (scores.entropy * is_response).sum(), is_response.sum())
    chosen = groups.get("chosen")
    is_right, is_counted = (scores.is_top1.bool() & is_response, is_response)
    if chosen is not None:
        is_right, is_counted = is_right[chosen], is_counted[chosen]
    window.add("mean_token_accuracy", is_right.sum(), is_counted.sum())
    for name, rows in groups.items():
        window.add(f"logits/{name}", (scores.mean_logits[rows] * is_response[rows]).sum(), is_response[rows].sum())
