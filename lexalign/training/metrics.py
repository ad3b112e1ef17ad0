"""Numbers between two log lines: sums and counts, so that each row or token counts once, whatever its batch and its process."""

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
        """Take up values of any shape; `count` is how many they stand for, their number if None."""
        values = values.detach().float()
        total = values.numel() if count is None else count
        weight = total.detach().float() if isinstance(total, Tensor) else values.new_tensor(float(total))
        self.names.append(name)
        self.pairs.append(torch.stack((values.sum(), weight.sum())))

    def settle(self) -> None:
        """Bring what waits on the device to the sums, in one transfer."""
        if self.pairs:
            for name, (value, count) in zip(self.names, torch.stack(self.pairs).double().tolist(), strict=True):
                sums = self.sums.setdefault(name, [0.0, 0.0])
                sums[0] += value
                sums[1] += count
        self.names, self.pairs = [], []

    def means(self) -> dict[str, float]:
        """The mean of each name over this process; names that nothing stands for are left out."""
        self.settle()
        return {name: value / count for name, (value, count) in self.sums.items() if count}

    def gathered_means(self) -> dict[str, float]:
        """The same over all processes, which must all call it."""
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
        """Begin anew."""
        self.names, self.pairs, self.sums = [], [], {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        self.settle()
        return {name: list(values) for name, values in self.sums.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.clear()
        self.sums = {name: list(values) for name, values in state.items()}


def note_details(window: MetricWindow, scores: Any, weights: Tensor, groups: dict[str, Tensor]) -> None:
    """Entropy and token accuracy of the response tokens, mean logits and log-probabilities by group of rows.

    `scores` has `entropy`, `mean_logits`, `is_top1` (R, T-1); `weights` (R, T-1) is above 0 at response tokens; `groups` are row indices by
    name (chosen, rejected). Accuracy is that of the chosen rows, of all where there is no such group.
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
