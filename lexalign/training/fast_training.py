"""What makes TRL's trainers fast without changing what they compute: the packed forward and fused LoRA."""

import logging
from typing import Any

from datasets import Dataset
from peft import PeftModel
from torch.utils.data import SequentialSampler

from lexalign.config import hardware
from lexalign.config.schema import Experiment
from lexalign.distributed import collectives
from lexalign.distributed.sampler import make_sharded_loader, shard_sampler
from lexalign.fast_path import exactness, fused_layers, fused_lora
from lexalign.fast_path.forward import ROUND, install_forward
from lexalign.training.batches import NearEqualBatches


class NoModelCard:
    """Put before a TRL trainer, which would write a card into every checkpoint, and ask wandb for an address to put in it."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing."""


log = logging.getLogger(__name__)


def get_base_model(model: Any) -> Any:
    """The causal language model below an adapter."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


class FastPathMixin:
    """Mixin before a TRL trainer: call `speed_up` once the trainer stands."""

    alike = 1
    """Rows of a batch that continue one prompt."""
    always = False
    """Whether the loss needs this forward even with train.fast_path=false (the padded layout, then)."""
    has_reference = False
    """Whether the loss measures rewards from a reference, which step 0 can then check."""
    layout = "padded"
    """How batches are computed: packed or padded."""
    model: Any
    args: Any
    experiment: Experiment
    train_dataset: Any

    def speed_up(self, experiment: Experiment) -> None:
        """Give the policy (and a reference model of its own) the fast forward, and say what is done and what is not, with the reason."""
        assert experiment.train is not None
        self.experiment = experiment
        strategy, asked = experiment.hardware.strategy, experiment.train.fast_path
        parts = hardware.is_sharded(experiment.hardware)
        if (parts or not asked) and not self.always:
            self.layout = "trl"
            if asked:
                log.info(
                    "Fast path: not with hardware=%s, where a layer's weights are there only during its own forward: TRL's own", strategy
                )
            return
        base = get_base_model(self.model)
        reason = (
            exactness.find_padding_reason(base) if asked and not parts else f"hardware={strategy}" if parts else "train.fast_path=false"
        )
        self.layout = "padded" if reason else "packed"
        for model in filter(None, (base, getattr(self, "ref_model", None))):
            install_forward(get_base_model(model), packed=reason is None, alike=self.alike)
            fused = fused_layers.fuse_layers(model) if asked and not parts else 0
        low_rank = fused_lora.fuse_lora(self.model) if asked and not parts else 0
        told = (
            f"padded batches, because {reason}"
            if reason
            else "each token computed once, prompts shared"
            if self.alike > 1
            else "no padding"
        )
        if self.args.bf16 and self.args.device.type == "cpu":
            told += f", idle ones up to a multiple of {ROUND} (bfloat16 on a CPU)"
        log.info("Fast path: %s; %d LoRA layers fused, %d other modules", told, low_rank, fused)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        train, seed = self.experiment.train, self.experiment.seed
        assert train is not None
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not train.group_by_length and train.max_tokens is None:
            drawn = super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        else:
            lengths = self.computed_lengths(dataset)
            drawn = NearEqualBatches(lengths, batch_size=train.batch_size, max_tokens=train.max_tokens, seed=seed)
        return shard_sampler(drawn, dataset, batch_size=train.batch_size, seed=seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return shard_sampler(SequentialSampler(eval_dataset), eval_dataset, batch_size=self.held_out_at_once(), seed=0)

    def held_out_at_once(self) -> int:
        """Held-out rows of a batch, over all processes."""
        return self.experiment.evaluate.batch_size

    def get_train_dataloader(self) -> Any:
        """transformers' own, whose batches come as they are shared out."""
        return make_sharded_loader(super().get_train_dataloader())  # type: ignore[misc]

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, whose batches come as they are shared out."""
        return make_sharded_loader(super().get_eval_dataloader(*args, **kwargs))  # type: ignore[misc]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """TRL's; of an evaluation in several processes the same in each: the mean over the batch's rows or tokens."""
        if collectives.world_size() == 1 or model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        if "labels" in inputs:
            num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)  # type: ignore[attr-defined]
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        loss, *rest = found if return_outputs else (found,)
        loss = self.accelerator.reduce(loss.detach(), "mean")  # type: ignore[attr-defined]
        return (loss, *rest) if return_outputs else loss

    def computed_lengths(self, dataset: Dataset) -> list[int]:
        """Tokens each row takes in a batch."""
        return [len(ids) for ids in dataset["input_ids"]]
