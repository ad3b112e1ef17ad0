"""Kahneman-Tversky optimization (arXiv 2402.01306): TRL's KTOTrainer on single responses, each desirable or not."""

import copy
import logging
import random
from pathlib import Path
from typing import Any

import trl
from datasets import Dataset
from torch import Tensor

from lexalign.cache.tokens import TokenCache
from lexalign.config.schema import Experiment, KtoMethod
from lexalign.data.rendering import Renderer
from lexalign.data.rows import Row, Splits
from lexalign.models.loading import LoadedModel
from lexalign.training import arguments
from lexalign.training.fast_training import NoModelCard
from lexalign.training.reference import PART, ReferenceMixin

log = logging.getLogger(__name__)
BALANCED = (1.0, 4 / 3)
"""Where Eq. 8 of the paper wants λ_D·n_D / (λ_U·n_U)."""


class KTOTrainer(NoModelCard, ReferenceMixin, trl.KTOTrainer):
    """TRL's KTOTrainer. The KL divergence is estimated from each prompt and another completion of its batch, paired before training: TRL
    keeps the batches as the rows come, so the seed draws the order of the rows here, once for all epochs."""

    alike = 1
    shared_belief = False
    reference_names = ("ref_logps", "ref_KL_logps")

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
        assert isinstance(method, KtoMethod) and train is not None and experiment.adapter is not None
        self.tokens, self.paired = tokens, train.batch_size
        rows = random.Random(experiment.seed).sample(splits.train, len(splits.train))
        report_balance(rows, method)
        if len(rows) % train.batch_size == 1:
            log.warning("The last batch holds one row: its KL estimate is that row's own, so it teaches little")
        common = arguments.make_training_arguments(experiment, out_dir)
        common["per_device_eval_batch_size"] = train.batch_size  # the held-out rows are paired in batches of this size too
        super().__init__(
            model=loaded.model,
            args=trl.KTOConfig(
                **common,
                beta=method.beta,
                desirable_weight=method.desirable_weight,
                undesirable_weight=method.undesirable_weight,
                # Read by TRL where it would load a reference model; the pass itself is ours.
                precompute_ref_log_probs=experiment.adapter.kind == "full",
            ),
            train_dataset=Dataset.from_list([make_kto_row(row, encoder) for row in rows]),
            eval_dataset=Dataset.from_list([make_kto_row(row, encoder) for row in splits.held_out]) if train.eval_steps else None,
            processing_class=loaded.tokenizer,
            peft_config=arguments.make_peft_config(experiment, loaded),
            callbacks=callbacks,
        )
        arguments.restore_adapter_settings(self.model, experiment)
        self.speed_up(experiment)
        self.open_reference(loaded)

    def responses_of(self, row: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
        return [(row["prompt_ids"], row[name]) for name in ("completion_ids", "KL_completion_ids")]

    def held_out_at_once(self) -> int:
        return self.paired

    def reference_parts(self, inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        return [{name: inputs[f"{kind}{name}"] for name in PART} for kind in ("", "KL_")]

    def reference_pass(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return self.compute_ref_log_probs(self.model, inputs)

    def computed_lengths(self, dataset: Dataset) -> list[int]:
        columns = [dataset[name] for name in ("prompt_ids", "completion_ids")]
        return [sum(map(len, spans)) for spans in zip(*columns, strict=True)]

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: Any, dataset_name: str) -> Dataset:
        args = copy.copy(args)
        args.per_device_train_batch_size = self.paired  # the rows of all processes together, whose KL estimate is one
        settings = {name: getattr(args, name) for name in ("max_length", "per_device_train_batch_size")}
        return self.tokens.rows(
            "kto",
            dataset.to_list(),
            settings,
            lambda: super(KTOTrainer, self)._prepare_dataset(dataset, processing_class, args, dataset_name),
        )


def report_balance(rows: list[Row], method: KtoMethod) -> None:
    """How many rows of each kind there are, and whether their weights make up for it."""
    desirable = sum(row["label"] for row in rows)
    undesirable = len(rows) - desirable
    ratio = method.desirable_weight * desirable / (method.undesirable_weight * undesirable)
    told = f"{desirable} desirable and {undesirable} undesirable rows, weighted {ratio:.2f} to 1"
    if BALANCED[0] <= round(ratio, 2) <= round(BALANCED[1], 2):
        log.info("KTO: %s", told)
        return
    wanted = ratio / method.desirable_weight
    low, high = (bound / wanted for bound in BALANCED)
    log.warning("KTO: %s; the paper wants 1 to 1.33: method.desirable_weight=%.2f to %.2f would make it so", told, low, high)


def make_kto_row(row: Row, encoder: Renderer) -> dict[str, Any]:
    """A row in TRL's layout."""
    if not encoder.chat:
        return {"prompt": encoder.plain(row["prompt"]), "completion": row["completion"], "label": row["label"]}
    completion = [{"role": "assistant", "content": row["completion"]}]
    return {"prompt": encoder.turns(row["prompt"]), "completion": completion, "label": row["label"]}
