"""What makes TRL's trainers fast without changing what they compute: the packed forward, fused LoRA, and a reference that is paid once."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from tqdm import tqdm

from lexalign import identity
from lexalign.logprobs import exactness, lora
from lexalign.logprobs.forward import install
from lexalign.models import Loaded
from lexalign.schema import Experiment
from lexalign.stores import shelf
from lexalign.stores.reference import ReferenceStore, row_key
from lexalign.trainers.batches import NearEqualBatches

log = logging.getLogger(__name__)


def base_of(model: Any) -> Any:
    """The causal language model below an adapter."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


class FastPath:
    """Mixin before a TRL trainer: call `speed_up` once the trainer stands."""

    alike = 1
    """Rows of a batch that continue one prompt."""
    always = False
    """Whether the loss needs this forward even with train.fast_path=false (the padded layout, then)."""
    layout = "padded"
    """How batches are computed: packed or padded."""
    model: Any
    train_dataset: Any

    def speed_up(self, experiment: Experiment) -> None:
        """Give the policy (and a reference model of its own) the fast forward, and say what is done and what is not, with the reason."""
        assert experiment.train is not None
        self.experiment = experiment
        if not experiment.train.fast_path and not self.always:
            self.layout = "trl"
            return
        base = base_of(self.model)
        reason = exactness.why_padded(base) if experiment.train.fast_path else "train.fast_path=false"
        self.layout = "padded" if reason else "packed"
        for model in filter(None, (base, getattr(self, "ref_model", None))):
            install(base_of(model), packed=reason is None, alike=self.alike)
        fused = lora.fuse(self.model) if experiment.train.fast_path else 0
        told = (
            f"padded batches, because {reason}"
            if reason
            else "each token computed once, prompts shared"
            if self.alike > 1
            else "no padding"
        )
        log.info("Fast path: %s; %d LoRA layers fused", told, fused)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        train = self.experiment.train
        assert train is not None
        if not train.group_by_length and train.max_tokens is None:
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return NearEqualBatches(
            self.computed_lengths(dataset), batch_size=train.batch_size, max_tokens=train.max_tokens, seed=self.experiment.seed
        )

    def computed_lengths(self, dataset: Dataset) -> list[int]:
        """Tokens each row takes in a batch."""
        return [len(ids) for ids in dataset["input_ids"]]


class PaidReference(FastPath):
    """Mixin before TRL's DPOTrainer: pairs in one row, and reference log-probabilities from the store."""

    alike = 2
    args: Any
    data_collator: Any
    precompute_ref_logps: bool
    eval_dataset: Any

    def computed_lengths(self, dataset: Dataset) -> list[int]:
        columns = [dataset[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
        return [sum(map(len, spans)) for spans in zip(*columns, strict=True)]

    def context_of(self, row: dict[str, Any], side: str) -> list[int]:
        """The ids before a response."""
        return row["prompt_ids"]

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """TRL's own pass, whose cache no other run ever hits; ours is `pay_reference`."""
        return dataset

    def pay_reference(self, loaded: Loaded) -> None:
        """Give training and evaluation rows the reference's log-probabilities: from the store, the missing ones computed now."""
        key = identity.reference_key(self.experiment, loaded.base, dtype=str(next(self.model.parameters()).dtype), layout=self.layout)
        store = ReferenceStore(shelf.of(self.experiment, "reference"), key)
        self.train_dataset = self._with_reference(self.train_dataset, store)
        if self.eval_dataset is not None:
            self.eval_dataset = self._with_reference(self.eval_dataset, store)
        self.precompute_ref_logps = True
        self.reference_computed, self.reference_reused = store.computed, store.reused
        log.info("Reference log-probabilities: %d responses computed, %d from the store", store.computed, store.reused)

    def _with_reference(self, dataset: Dataset, store: ReferenceStore) -> Dataset:
        length = self.args.max_length
        keys = []
        for row in dataset:
            pair = [(self.context_of(row, side), row[f"{side}_ids"]) for side in ("chosen", "rejected")]
            keys.append([row_key(context, response[: max(0, length - len(context))]) for context, response in pair])
        missing = [at for at, pair in enumerate(keys) if store.known(pair) is None]
        size = self.args.per_device_train_batch_size
        found: dict[bytes, tuple[float, int]] = {}
        self.model.eval()
        for first in tqdm(range(0, len(missing), size), desc="Reference log-probabilities", unit="batch", disable=len(missing) < 50 * size):
            picked = missing[first : first + size]
            for at, sums, counts in zip(picked, *self._scored([dataset[at] for at in picked]), strict=True):
                found |= dict(zip(keys[at], zip(sums, counts, strict=True), strict=True))
        self.model.train()
        store.add(found)
        columns = list(zip(*(pair_of(store, pair) for pair in keys), strict=True))
        for name, column in zip(("ref_chosen_logps", "ref_rejected_logps"), columns, strict=True):
            dataset = dataset.add_column(name, list(column))
        return dataset

    def _scored(self, rows: Sequence[dict[str, Any]]) -> tuple[list[list[float]], list[list[int]]]:
        """Sums and token counts of the (chosen, rejected) responses of rows under the reference."""
        wanted = self._signature_columns or list(rows[0])  # type: ignore[attr-defined]
        batch = self._prepare_inputs(self.data_collator([{name: row[name] for name in wanted if name in row} for row in rows]))  # type: ignore[attr-defined]
        extra = {} if self.layout == "trl" else {"details": False}
        chosen, rejected = self.compute_ref_log_probs(self.model, {**batch, **extra})  # type: ignore[attr-defined]
        counts = batch["completion_mask"].sum(1).view(2, -1).t().tolist()
        return torch.stack((chosen, rejected), 1).tolist(), counts


def pair_of(store: ReferenceStore, keys: list[bytes]) -> list[float]:
    """The sums of a pair that is in the store by now."""
    return [store.sums[key] for key in keys]
