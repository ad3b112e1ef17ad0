"""DPO on pairs whose preference is a probability: geometric-averaged DPO (arXiv 2409.06691), and conservative DPO beside it."""

from typing import Any

import torch
from torch import Tensor

from lexalign import losses
from lexalign.config.schema import Method, SoftMethod
from lexalign.fast_path.forward import IGNORED
from lexalign.trainers.dpo import PairTrainer


class SoftLabelTrainer(PairTrainer):
    """Pairs with the probability that the chosen response is preferred; the loss is a subclass's `pair_loss`."""

    always = True

    def collated(self, collator: Any) -> Any:
        return WithSoftLabels(collator)

    def loss_arguments(self, method: Method) -> dict[str, Any]:
        assert isinstance(method, SoftMethod)
        return {"beta": method.beta}

    def pair_loss(self, logits: Tensor, soft_label: Tensor) -> Tensor:
        """The loss of each pair, (B,), from the difference of its log-ratios (B,) and its label (B,)."""
        raise NotImplementedError

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        inputs = self.with_reference(inputs)
        ids = inputs["input_ids"]
        scores = model(
            input_ids=ids,
            attention_mask=inputs["attention_mask"],
            labels=ids.masked_fill(inputs["completion_mask"] == 0, IGNORED),
            details=False,
            use_cache=False,
            fused_lm_head=True,
        )
        chosen, rejected = scores.log_probs.sum(1).chunk(2)
        ref_chosen, ref_rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        pairs = self.pair_loss(losses.preference_logits(chosen, rejected, ref_chosen, ref_rejected), inputs["soft_label"])
        rewards = self.beta * (chosen - ref_chosen).detach(), self.beta * (rejected - ref_rejected).detach()
        self.note(inputs, rewards, preference=pairs)
        loss = pairs.mean()
        return (loss, scores) if return_outputs else loss

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "soft_label" not in self._signature_columns:
            self._signature_columns.append("soft_label")


class GeometricTrainer(SoftLabelTrainer):
    """`lexalign.losses.geometric_loss`."""

    def pair_loss(self, logits: Tensor, soft_label: Tensor) -> Tensor:
        return losses.geometric_loss(logits, soft_label, beta=self.beta)


class ConservativeTrainer(SoftLabelTrainer):
    """`lexalign.losses.conservative_loss`."""

    def pair_loss(self, logits: Tensor, soft_label: Tensor) -> Tensor:
        return losses.conservative_loss(logits, soft_label, beta=self.beta)


class WithSoftLabels:
    """TRL's collator, and the labels as `soft_label` (B,)."""

    def __init__(self, collator: Any):
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = self.collator(rows)
        return {**batch, "soft_label": torch.tensor([row["soft_label"] for row in rows])}
