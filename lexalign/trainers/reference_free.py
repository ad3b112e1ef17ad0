"""Preference methods without a reference: ORPO, CPO and SimPO, whose losses are those of TRL's experimental trainers."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.experimental import cpo, orpo

from lexalign.cache.tokens import TokenCache
from lexalign.config.schema import CpoMethod, Experiment, Method, OrpoMethod, SimpoMethod
from lexalign.data.rendering import Renderer
from lexalign.data.rows import Row, Splits
from lexalign.fast_path.forward import IGNORED
from lexalign.models.loading import LoadedModel
from lexalign.training import arguments
from lexalign.training.fast_training import FastPathMixin, NoModelCard

COLUMNS = [f"{side}_{name}" for side in ("chosen", "rejected") for name in ("input_ids", "attention_mask", "labels")]


class ReferenceFree(NoModelCard, FastPathMixin):
    """Mixin before TRL's ORPOTrainer or CPOTrainer: our rows and our forward under TRL's loss.

    TRL's own tokens differ from what the model meets elsewhere: they begin with BOS and end with EOS even where the tokenizer or the
    chat template writes none, so the rows come as the encoder's ids.
    """

    alike = 2
    shared_belief = False
    config: Any
    """TRL's arguments class."""
    averaged = True
    """Whether the loss takes the mean log-probability of a response's tokens; else their sum."""
    likelihood_of_prompts = False
    """Whether the negative log-likelihood is taken over the chosen row's prompt too."""
    _total_train_tokens = 0

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
        assert experiment.method is not None and experiment.train is not None
        max_length = experiment.train.max_length

        def tokenized(rows: list[Row]) -> Dataset:
            settings = {**encoder.settings(), "max_length": max_length}
            made = lambda: Dataset.from_list([make_row(row, encoder, max_length) for row in rows])  # noqa: E731
            return tokens.rows("reference_free", rows, settings, made)

        super().__init__(  # type: ignore[call-arg]
            model=loaded.model,
            args=self.config(
                **arguments.make_training_arguments(experiment, out_dir),
                **self.loss_arguments(experiment.method),
                remove_unused_columns=False,
            ),
            train_dataset=tokenized(splits.train),
            eval_dataset=tokenized(splits.held_out) if experiment.train.eval_steps else None,
            processing_class=loaded.tokenizer,
            peft_config=arguments.make_peft_config(experiment, loaded),
            callbacks=callbacks,
        )
        arguments.restore_adapter_settings(self.model, experiment)
        self.speed_up(experiment)

    def loss_arguments(self, method: Method) -> dict[str, Any]:
        """TRL's arguments of the loss."""
        raise NotImplementedError

    @staticmethod
    def tokenize_row(row: Row, model: Any = None) -> Row:
        """The rows come as ids already."""
        return row

    def computed_lengths(self, dataset: Dataset) -> list[int]:
        columns = [dataset[name] for name in ("chosen_input_ids", "rejected_input_ids", "prompt_length")]
        return [len(chosen) + len(rejected) - prompt for chosen, rejected, prompt in zip(*columns, strict=True)]

    def concatenated_forward(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """TRL's (chosen log-probs (B,), rejected ones (B,), their mean logits, negative log-likelihood of the chosen rows)."""
        if self.model.training:
            self._total_train_tokens += int(batch["chosen_attention_mask"].sum() + batch["rejected_attention_mask"].sum())
        if self.layout == "trl" or self.aux_loss_enabled:  # type: ignore[attr-defined]
            return super().concatenated_forward(model, batch)  # type: ignore[misc]
        rows = self.concatenated_inputs(  # type: ignore[attr-defined]
            batch,
            padding_value=self.processing_class.pad_token_id,
            device=self.accelerator.device,  # type: ignore[attr-defined]
        )
        ids, attended, labels = (rows[f"concatenated_{name}"] for name in ("input_ids", "attention_mask", "labels"))
        pairs = len(ids) // 2
        wanted = labels.clone()
        if self.likelihood_of_prompts:
            wanted[:pairs] = ids[:pairs].masked_fill(attended[:pairs] == 0, IGNORED)
        scores = model(input_ids=ids, attention_mask=attended, labels=wanted, use_cache=False, fused_lm_head=True)
        responded = labels[:, 1:] != IGNORED
        sums = (scores.log_probs * responded).sum(1)
        log_probs = sums / responded.sum(1) if self.averaged else sums
        logits = [scores.mean_logits[half][responded[half]] for half in (slice(pairs), slice(pairs, None))]
        likelihood = -scores.log_probs[:pairs].sum() / scores.label_mask[:pairs].sum()
        return (*log_probs.chunk(2), *logits, likelihood)

    @property
    def _metrics(self) -> Any:
        """What TRL's newer trainers call their metrics."""
        return self._stored_metrics  # type: ignore[attr-defined]

    def store_metrics(self, metrics: dict[str, float], train_eval: str = "train") -> None:
        """TRL's, which would take a loss that is only tried for a training step's."""
        if self.model.training or train_eval == "eval":
            super().store_metrics(metrics, train_eval)  # type: ignore[misc]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["num_tokens"] = self._total_train_tokens
        super().log(logs, start_time)  # type: ignore[misc]

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = COLUMNS


class ORPOTrainer(ReferenceFree, orpo.ORPOTrainer):
    """TRL's ORPOTrainer; as in its authors' code, the likelihood is the prompt's too."""

    config = orpo.ORPOConfig
    likelihood_of_prompts = True

    def loss_arguments(self, method: Method) -> dict[str, Any]:
        assert isinstance(method, OrpoMethod)
        return {"beta": method.beta}


class CPOTrainer(ReferenceFree, cpo.CPOTrainer):
    """TRL's CPOTrainer with the loss of its paper."""

    config = cpo.CPOConfig
    averaged = False

    def loss_arguments(self, method: Method) -> dict[str, Any]:
        assert isinstance(method, CpoMethod)
        return {"loss_type": "sigmoid", "beta": method.beta, "cpo_alpha": method.cpo_alpha}


class SimPOTrainer(ReferenceFree, cpo.CPOTrainer):
    """TRL's CPOTrainer with the loss of SimPO, and without the likelihood term that CPO adds."""

    config = cpo.CPOConfig

    def loss_arguments(self, method: Method) -> dict[str, Any]:
        assert isinstance(method, SimpoMethod)
        return {"loss_type": "simpo", "beta": method.beta, "simpo_gamma": method.gamma, "cpo_alpha": 0.0}


def make_row(row: Row, encoder: Renderer, max_length: int) -> dict[str, Any]:
    """The columns of TRL's collator: prompt and response as ids, cut at the end, each response behind its own belief where it has one."""
    prompt = encoder.prompt(row["prompt"])
    found: dict[str, Any] = {"prompt_length": len(prompt)}
    for side, belief in (("chosen", "belief"), ("rejected", "rejected_belief")):
        believed = encoder.belief(row.get(belief, row["belief"])) if "belief" in row else []
        response = (believed + encoder.response(row[side]))[: max_length - len(prompt)]
        found[f"{side}_input_ids"] = prompt + response
        found[f"{side}_attention_mask"] = [1] * (len(prompt) + len(response))
        found[f"{side}_labels"] = [IGNORED] * len(prompt) + response
    return found
