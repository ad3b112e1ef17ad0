"""Group Distributional Preference Optimization (arXiv 2412.20299): calibrate the beliefs, then prefer given the belief."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from torch import Tensor

from lexalign import losses
from lexalign.cache.tokens import TokenCache
from lexalign.config.schema import Experiment, GdpoMethod
from lexalign.data.rendering import Renderer, pad_rows
from lexalign.data.rows import Row, Splits
from lexalign.fast_path.forward import IGNORED
from lexalign.models.loading import LoadedModel
from lexalign.training import arguments
from lexalign.training.fast_training import NoModelCard
from lexalign.training.reference import ReferenceMixin

COLUMNS = ["prompt_ids", "belief_ids", "chosen_ids", "rejected_ids", "shares"]


class GDPOTrainer(NoModelCard, ReferenceMixin, trl.DPOTrainer):
    """TRL's DPOTrainer with explicit spans (prompt, belief, response) and the three-term loss of `lexalign.losses.gdpo_loss`."""

    shared_belief = True
    """Chosen and rejected both stand behind the chosen's belief."""
    always = True

    def __init__(
        self,
        *,
        experiment: Experiment,
        loaded: LoadedModel,
        splits: Splits,
        encoder: Renderer,
        tokens: TokenCache,
        out_dir: Path,
        callbacks: list[Any],
    ):
        method, train = experiment.method, experiment.train
        assert isinstance(method, GdpoMethod) and train is not None and experiment.adapter is not None
        self.method = method
        self.belief_tokens = torch.tensor(encoder.first_belief_tokens())
        args = trl.DPOConfig(
            **arguments.make_training_arguments(experiment, out_dir),
            beta=method.beta,
            # Read by TRL where it would load a reference model; the pass itself is ours.
            precompute_ref_log_probs=experiment.adapter.kind == "full",
            remove_unused_columns=False,
        )

        def tokenized(rows: list[Row]) -> Dataset:
            return tokens.rows("gdpo", rows, encoder.settings(), lambda: Dataset.from_list([make_belief_row(row, encoder) for row in rows]))

        super().__init__(
            model=loaded.model,
            args=args,
            train_dataset=tokenized(splits.train),
            eval_dataset=tokenized(splits.held_out) if train.eval_steps else None,
            processing_class=loaded.tokenizer,
            data_collator=BeliefCollator(pad=loaded.tokenizer.pad_token_id, max_length=train.max_length),
            peft_config=arguments.make_peft_config(experiment, loaded),
            callbacks=callbacks,
        )
        arguments.restore_adapter_settings(self.model, experiment)
        self.speed_up(experiment)
        self.open_reference(loaded)

    def context_of(self, row: dict[str, Any]) -> list[int]:
        return row["prompt_ids"] + row["belief_ids"]

    def computed_lengths(self, dataset: Dataset) -> list[int]:
        return [length + len(ids) for length, ids in zip(super().computed_lengths(dataset), dataset["belief_ids"], strict=True)]

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        """The rows come as ids already, so that no token straddles two spans."""
        return dataset

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        inputs = self.with_reference(inputs)
        ids, pairs = inputs["input_ids"], inputs["shares"].shape[0]
        responded, believed = inputs["completion_mask"], inputs["belief_mask"].clone()
        believed[pairs:] = 0  # the rejected rows repeat the belief
        scores = model(
            input_ids=ids,
            attention_mask=inputs["attention_mask"],
            labels=ids.masked_fill((responded + believed) == 0, IGNORED),
            positions=inputs["prompt_lengths"][:pairs] - 1,
            details=False,
            use_cache=False,
            fused_lm_head=True,
        )
        responses = (scores.log_probs * responded[:, 1:]).sum(1)
        belief_mask = believed[:pairs, 1:]
        beliefs = (scores.log_probs[:pairs] * belief_mask).sum(1) / belief_mask.sum(1)
        calibration = losses.calibration_loss(scores.logits, self.belief_tokens.to(ids.device), inputs["shares"])
        chosen, rejected = responses.chunk(2)
        ref_chosen, ref_rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        preference = losses.dpo_loss(losses.preference_logits(chosen, rejected, ref_chosen, ref_rejected), beta=self.beta)
        loss = losses.gdpo_loss(
            calibration,
            beliefs,
            preference,
            calibration_weight=self.method.calibration_weight,
            belief_weight=self.method.belief_weight,
            preference_weight=self.method.preference_weight,
        ).mean()
        rewards = self.beta * (chosen - ref_chosen).detach(), self.beta * (rejected - ref_rejected).detach()
        self.note(inputs, rewards, calibration=calibration, belief=-beliefs, preference=preference)
        return (loss, scores) if return_outputs else loss

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = COLUMNS


def make_belief_row(row: Row, encoder: Renderer) -> dict[str, Any]:
    """The spans of a pair as ids, and the target shares."""
    return {
        "prompt_ids": encoder.prompt(row["prompt"]),
        "belief_ids": encoder.belief(row["belief"]),
        "chosen_ids": encoder.response(row["chosen"]),
        "rejected_ids": encoder.response(row["rejected"]),
        "shares": row["probabilities"],
    }


@dataclass(kw_only=True)
class BeliefCollator:
    """B rows to a batch of 2B sequences `prompt | belief | response`, the chosen ones first, padded on the right.

    `completion_mask` marks response tokens, `belief_mask` belief tokens, (2B, T); `prompt_lengths` (2B,); `shares` (B, K).
    """

    pad: int
    max_length: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        sequences, beliefs, responses = [], [], []
        for response in ("chosen_ids", "rejected_ids"):
            for row in rows:
                spans = (row["prompt_ids"], row["belief_ids"], row[response])
                sequences.append(sum(spans, [])[: self.max_length])
                for marked, kind in ((beliefs, 1), (responses, 2)):
                    marked.append([int(kind == at) for at, span in enumerate(spans) for _ in span][: self.max_length])
        ids, attention = pad_rows(sequences, self.pad)
        batch = {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(attention),
            "belief_mask": torch.tensor(pad_rows(beliefs, 0)[0]),
            "completion_mask": torch.tensor(pad_rows(responses, 0)[0]),
            "prompt_lengths": torch.tensor([len(row["prompt_ids"]) for row in rows] * 2),
            "shares": torch.tensor([row["shares"] for row in rows]),
        }
        return batch
