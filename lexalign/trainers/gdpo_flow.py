"""GFlowNet-DPO (arXiv 2410.15096): pairs as flows of tokens that end in proportion to a reward, so that diversity is kept."""

import logging
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from lexalign import losses
from lexalign.cache.cache import ContentCache
from lexalign.cache.reference import PerTokenReferenceCache
from lexalign.config.schema import FlowMethod, Method
from lexalign.fast_path.forward import IGNORED
from lexalign.trainers.dpo import PairTrainer

log = logging.getLogger(__name__)
SIDES = ("chosen_ids", "rejected_ids")


class FlowTrainer(PairTrainer):
    """`lexalign.losses.flow_loss` on each response. ⊤ is the token that ends a response here (`Encoder.end`); what a chat template writes
    after it is no part of the response."""

    always = True
    method: FlowMethod

    def loss_arguments(self, method: Method) -> dict[str, Any]:
        assert isinstance(method, FlowMethod)
        self.method = method
        return {}

    @property
    def end(self) -> int:
        """The id of ⊤."""
        return self.tokens.encoder.end()[0]

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: Any, dataset_name: str) -> Dataset:
        rows = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        end, after = self.tokens.encoder.end()
        if after:
            whole = [end, *after]

            def cut(row: dict[str, Any]) -> dict[str, list[int]]:
                return {side: row[side][: -len(after)] if row[side][-len(whole) :] == whole else row[side] for side in SIDES}

            rows = rows.map(cut, keep_in_memory=True, load_from_cache_file=False)
        pairs = [(prompt, ids) for side in SIDES for prompt, ids in zip(rows["prompt_ids"], rows[side], strict=True)]
        if short := sum(min(len(ids), args.max_length - len(prompt)) < 2 for prompt, ids in pairs):
            log.warning("%d of %d %s responses are one token long: they have no step and teach nothing", short, len(pairs), dataset_name)
        return rows

    def reference_store(self, on: ContentCache, model_key: str) -> PerTokenReferenceCache:
        return PerTokenReferenceCache(on, f"{model_key}-end-{self.end}-gamma-{self.method.gamma!r}")

    def reference_scores(self, inputs: dict[str, Tensor]) -> list[np.ndarray[Any, Any]]:
        with self.as_reference():
            scores = self.scored(self.model, inputs, temperature=self.method.gamma)
        both, mask = torch.stack((scores.log_probs, scores.also)).float().cpu().numpy(), scores.label_mask.cpu().numpy()
        return [both[:, at, marked] for at, marked in enumerate(mask)]

    def reference_columns(self, values: list[np.ndarray[Any, Any]], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        mask = inputs["completion_mask"][:, 1:].bool()
        kept = torch.from_numpy(np.concatenate(values, axis=1)).to(mask.device)
        actions, ends = (kept.new_zeros(mask.shape).masked_scatter(mask, row) for row in kept)
        return {"ref_actions": actions, "ref_ends": ends}

    def scored(self, model: Any, inputs: dict[str, Tensor], **settings: Any) -> Any:
        """Scores of the responses' tokens, and of ⊤ in each of their states, (2B, T-1)."""
        return model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED),
            also=self.end,
            details=False,
            use_cache=False,
            fused_lm_head=True,
            **settings,
        )

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        inputs = self.with_reference(inputs)
        scores = self.scored(model, inputs)
        ref_actions, rejected = inputs["ref_actions"], torch.arange(len(scores.log_probs)) >= len(scores.log_probs) // 2
        flows = losses.flow_loss(
            scores.log_probs,
            scores.also,
            ref_actions,
            inputs["ref_ends"],
            scores.label_mask,
            self.method.rejected_reward * rejected.to(ref_actions),
            alpha=self.method.alpha,
        )
        rewards = (scores.log_probs.detach() - ref_actions).sum(1).chunk(2)  # the log-ratios, in nats: this loss has no beta
        chosen_flow, rejected_flow = flows.chunk(2)
        self.note(inputs, rewards, chosen_flow=chosen_flow, rejected_flow=rejected_flow)
        loss = flows.mean()
        return (loss, scores) if return_outputs else loss
