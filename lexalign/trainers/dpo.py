"""Direct preference optimization: TRL's DPOTrainer on our rows (arXiv 2305.18290, and the losses TRL offers beside it)."""

import copy
from pathlib import Path
from typing import Any

import trl
from datasets import Dataset

from lexalign.cache.tokens import TokenCache
from lexalign.config.schema import DpoMethod, Experiment, Method
from lexalign.data.rendering import Renderer
from lexalign.data.rows import Row, Splits
from lexalign.models.loading import LoadedModel
from lexalign.training import arguments
from lexalign.training.fast_training import NoModelCard
from lexalign.training.reference import ReferenceMixin


class PairTrainer(NoModelCard, ReferenceMixin, trl.DPOTrainer):
    """TRL's DPOTrainer. The reference is the model as loaded: an earlier run's adapter is merged into it before training."""

    shared_belief = False
    """On data with beliefs each response stands behind its own: the baseline GDPO is compared with."""

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
        method = experiment.method
        assert method is not None and experiment.train is not None and experiment.adapter is not None
        self.tokens = tokens
        precompute = not isinstance(method, DpoMethod) or method.precompute_reference
        full = experiment.adapter.kind == "full"
        args = trl.DPOConfig(
            **arguments.make_training_arguments(experiment, out_dir),
            **self.loss_arguments(method),
            # Read by TRL where it would load a reference model; the pass itself is ours.
            precompute_ref_log_probs=precompute and full,
        )
        # Left to itself, TRL would load a full model's reference from its path again: without an adapter merged into it since.
        needs_copy = full and not precompute
        held_out = Dataset.from_list([make_pair_row(row, encoder) for row in splits.held_out]) if experiment.train.eval_steps else None
        super().__init__(
            model=loaded.model,
            ref_model=copy.deepcopy(loaded.model) if needs_copy else None,
            args=args,
            train_dataset=Dataset.from_list([make_pair_row(row, encoder) for row in splits.train]),
            eval_dataset=held_out,
            processing_class=loaded.tokenizer,
            peft_config=arguments.make_peft_config(experiment, loaded),
            callbacks=callbacks,
        )
        self.data_collator = self.collated(self.data_collator)
        arguments.restore_adapter_settings(self.model, experiment)
        self.speed_up(experiment)
        if precompute:
            self.open_reference(loaded)

    def collated(self, collator: Any) -> Any:
        """What makes batches of rows; TRL's, unless the loss needs more of a row."""
        return collator

    def loss_arguments(self, method: Method) -> dict[str, Any]:
        """TRL's arguments of the loss."""
        raise NotImplementedError

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: Any, dataset_name: str) -> Dataset:
        settings = {name: getattr(args, name) for name in ("max_length", "truncation_mode")}
        return self.tokens.rows(
            "dpo",
            dataset.to_list(),
            settings,
            lambda: super(PairTrainer, self)._prepare_dataset(dataset, processing_class, args, dataset_name),
        )


def make_pair_row(row: Row, encoder: Renderer) -> dict[str, Any]:
    """A pair in TRL's layout, each response behind its own belief where the data have beliefs."""
    chosen, rejected = row["chosen"], row["rejected"]
    extra = {name: row[name] for name in ("soft_label",) if name in row}
    if "belief" in row:
        chosen = encoder.belief_text(row["belief"]) + chosen
        rejected = encoder.belief_text(row.get("rejected_belief", row["belief"])) + rejected
    if not encoder.chat:
        return {"prompt": encoder.plain(row["prompt"]), "chosen": chosen, "rejected": rejected, **extra}
    return {
        "prompt": encoder.turns(row["prompt"]),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **extra,
    }


class DPOTrainer(PairTrainer):
    """TRL's DPOTrainer, all of its losses."""

    def loss_arguments(self, method: Method) -> dict[str, Any]:
        assert isinstance(method, DpoMethod)
        return {"beta": method.beta, "loss_type": [method.loss_type], "label_smoothing": method.label_smoothing}
