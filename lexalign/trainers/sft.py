"""Supervised fine-tuning: TRL's SFTTrainer on our rows."""

import logging
from pathlib import Path
from typing import Any

import trl
from datasets import Dataset

from lexalign.cache.tokens import TokenCache
from lexalign.config.schema import Experiment, SftMethod
from lexalign.data.rendering import Renderer
from lexalign.data.rows import Row, Splits
from lexalign.errors import DataError
from lexalign.models.loading import LoadedModel
from lexalign.training import arguments
from lexalign.training.fast_training import FastPathMixin, NoModelCard

log = logging.getLogger(__name__)


class SFTTrainer(NoModelCard, FastPathMixin, trl.SFTTrainer):
    """TRL's SFTTrainer; full, LoRA or QLoRA as `adapter` says."""

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
        assert isinstance(experiment.method, SftMethod) and experiment.train is not None
        self.tokens = tokens
        loss_on = experiment.method.loss_on
        has_marks = "{% generation" in (loaded.tokenizer.chat_template or "")
        conversations = "messages" in splits.train[0]
        args = trl.SFTConfig(
            **arguments.make_training_arguments(experiment, out_dir),
            packing=experiment.train.packing,
            completion_only_loss={"all": False, "completion": True}.get(loss_on),
            assistant_only_loss=loss_on == "assistant" or (loss_on == "auto" and conversations and has_marks),
        )
        held_out = Dataset.from_list([make_sft_row(row, encoder) for row in splits.held_out]) if experiment.train.eval_steps else None
        super().__init__(
            model=loaded.model,
            args=args,
            train_dataset=Dataset.from_list([make_sft_row(row, encoder) for row in splits.train]),
            eval_dataset=held_out,
            processing_class=loaded.tokenizer,
            peft_config=arguments.make_peft_config(experiment, loaded),
            callbacks=callbacks,
        )
        self.speed_up(experiment)
        if not experiment.train.packing:
            self.count_left_out(splits)

    def count_left_out(self, splits: Splits) -> None:
        """TRL leaves out, without a word, rows of which nothing is trained once cut: count them. Raises DataError if none is left."""
        left_out = len(splits.train) - len(self.train_dataset)
        splits.counts["train_rows_without_trained_token"] = left_out
        where = f"{left_out} of {len(splits.train)} training rows have no trained token within train.max_length={self.args.max_length}"
        if not len(self.train_dataset):
            raise DataError(f"{where}, so there is nothing to train; raise it, or look at method.loss_on")
        if left_out:
            log.warning("%s; they are left out", where)

    def _prepare_dataset(
        self, dataset: Dataset, processing_class: Any, args: Any, packing: bool, formatting_func: Any, name: str
    ) -> Dataset:
        shaping = (
            "max_length",
            "truncation_mode",
            "packing_strategy",
            "completion_only_loss",
            "assistant_only_loss",
            "shuffle_dataset",
            "seed",
        )
        settings = {"packing": packing, **{key: getattr(args, key) for key in shaping}}
        if not packing and not args.shuffle_dataset:
            del settings["seed"]
        return self.tokens.rows(
            "sft",
            dataset.to_list(),
            settings,
            lambda: super(SFTTrainer, self)._prepare_dataset(dataset, processing_class, args, packing, formatting_func, name),
        )


def make_sft_row(row: Row, encoder: Renderer) -> dict[str, Any]:
    """A row in TRL's layout: chat turns where the encoder makes some, plain text elsewhere."""
    if "completion" not in row:
        return {key: row[key] for key in ("text", "messages") if key in row}
    if not encoder.chat:
        return {"prompt": encoder.plain(row["prompt"]), "completion": row["completion"]}
    return {"prompt": encoder.turns(row["prompt"]), "completion": [{"role": "assistant", "content": row["completion"]}]}
