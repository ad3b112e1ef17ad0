"""The frozen reference model, a member of the trainer. Its log-probabilities come from the store; missing ones are computed."""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm

from lexalign.artifacts import files, fingerprint
from lexalign.cache import cache
from lexalign.cache.reference import PerTokenReferenceCache, ReferenceCache, SummedReferenceCache, make_row_key
from lexalign.distributed import collectives
from lexalign.models.adapters import use_start_model
from lexalign.models.loading import LoadedModel
from lexalign.models.precision import make_autocast
from lexalign.training.collator import list_row_spans, list_spans

log = logging.getLogger(__name__)
ENTRIES = "reference.json"


class Reference:
    """Log-probabilities of the model as it was at the start of the run.

    That model is the policy without its adapter, or with the frozen copy of its start adapter. With full training, the log-probabilities
    are computed before the first step, or by a copy of the model if `is_stored` is false.
    """

    def __init__(self, trainer: Any, loaded: LoadedModel, *, is_stored: bool, model: Any = None):
        self.trainer = trainer
        self.kind = trainer.objective.reference
        self.model = model
        """A separate reference model; None if the policy itself computes the reference."""
        self.cache: ReferenceCache[Any] | None = None
        self.is_counting = False
        """Whether computed values are stored. The values of a trial are not: their last bits depend on the batch."""
        self.reported = 0
        """The number of computed responses in the last report."""
        if is_stored:
            self.open_cache(loaded)

    def open_cache(self, loaded: LoadedModel) -> None:
        """Open the store for this reference model."""
        experiment, objective = self.trainer.experiment, self.trainer.objective
        dtype = str(next(self.trainer.model.parameters()).dtype)
        key = fingerprint.make_reference_key(experiment, loaded.base, dtype=dtype, layout=self.trainer.layout)
        shelf = cache.open_cache(experiment, "reference")
        if self.kind == "tokens":
            key = f"{key}-end-{objective.end_token}-gamma-{objective.reference_temperature!r}"
            self.cache = PerTokenReferenceCache(shelf, key)
        else:
            self.cache = SummedReferenceCache(shelf, key)

    # Before the first step

    def prepare(self) -> None:
        """Compute the missing values before the first step. A run of less than an epoch computes them during training, if it can."""
        if self.cache is None:
            return
        trainer, args = self.trainer, self.trainer.args
        self.is_counting = True
        if (entries := self.read_entries()) is not None:
            self.cache.keep_to(entries)
        visited_rows = args.max_steps * args.gradient_accumulation_steps * args.per_device_train_batch_size * collectives.world_size()
        # Full training changes the model that is its own reference, so it computes everything before the first step.
        if 0 < visited_rows < len(trainer.train_dataset) and isinstance(trainer.model, PeftModel):
            log.info("Reference log-probabilities: computed as the rows come up, less than an epoch is trained")
            self.note_entries()
            return
        # If several jobs start together, one computes and the others wait.
        with self.cache.alone() if collectives.is_main() else contextlib.nullcontext():
            collectives.barrier()
            self.cache.reload()
            for dataset in filter(None, (trainer.train_dataset, trainer.eval_dataset)):
                self.compute_missing(dataset)
            self.cache.flush()
            collectives.barrier()
        self.cache.reload()
        self.note_entries()
        self.report()

    def finish(self) -> None:
        """Store the computed values, also if training ends early."""
        if self.cache is not None and self.cache.computed > self.reported:
            self.cache.flush()
            if collectives.world_size() == 1:  # not all processes may reach this point
                self.report()

    def compute_missing(self, dataset: Dataset) -> None:
        """Compute and store the values of the rows that are not in the store, in batches."""
        trainer, store = self.trainer, self.cache
        assert store is not None
        length = trainer.data_collator.max_length
        keys = [[make_row_key(*spans) for spans in list_row_spans(row, length)] for row in dataset]
        missing_rows = [at for at, row_keys in enumerate(keys) if store.look_up(row_keys) is None]
        size = trainer.args.per_device_train_batch_size
        missing_rows = collectives.shard(missing_rows)
        trainer.model.eval()
        for first in tqdm(
            range(0, len(missing_rows), size), desc="Reference log-probabilities", unit="batch", disable=len(missing_rows) < 50 * size
        ):
            batch = trainer.make_batch(dataset, missing_rows[first : first + size])
            for part in self.list_parts(batch):
                self.look_up(part)
        trainer.model.train()

    @staticmethod
    def list_parts(batch: dict[str, Any]) -> list[dict[str, Any]]:
        """The batch itself, and its batch of mismatched sequences if it has one."""
        return [batch, *([batch["mismatched"]] if "mismatched" in batch else [])]

    # The values

    def look_up(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The reference's values of a batch's sequences, in the form of `Scores.reference`. Missing values are computed."""
        if self.cache is None:
            return self.arrange(self.compute(batch), batch)
        keys = self.list_keys(batch)
        values = self.cache.look_up(keys, count=self.is_counting)
        if values is None:
            is_trained = not isinstance(self.trainer.model, PeftModel) and self.trainer.state.global_step > 0
            assert not is_trained, "the reference is gone: the model was trained"
            values = self.compute(batch)
            if self.is_counting:
                self.cache.add(dict(zip(keys, values, strict=True)))
                values = [self.cache.values[key] for key in keys]
        return self.arrange(values, batch)

    @staticmethod
    def list_keys(batch: dict[str, Tensor]) -> list[bytes]:
        """The key of each sequence, made of the tokens before the response, the response, and its weights."""
        return [make_row_key(*spans) for spans in list_spans(batch)]

    def compute(self, batch: dict[str, Tensor]) -> list[Any]:
        """Compute the values of each sequence: (sum, number of tokens), or the scores of each response token (2, n)."""
        objective = self.trainer.objective
        with self.as_reference() as model:
            token_scores = self.trainer.score(model, batch, details=False, temperature=objective.reference_temperature)
        weights = batch["weights"][:, 1:]
        if self.kind == "sums":
            return list(zip((token_scores.log_probs * weights).sum(1).tolist(), count_tokens(batch), strict=True))
        scores, mask = torch.stack((token_scores.log_probs, token_scores.also)).float().cpu().numpy(), (weights > 0).cpu().numpy()
        return [scores[:, at, row_mask] for at, row_mask in enumerate(mask)]

    def arrange(self, values: list[Any], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The values of each sequence as tensors of the batch."""
        device = batch["input_ids"].device
        if self.kind == "sums":
            sums, lengths = zip(*values, strict=True)
            assert list(lengths) == count_tokens(batch), "the store's numbers are of other responses than the batch's"
            return {"sums": torch.tensor(sums, device=device, dtype=torch.float32)}
        mask = batch["weights"][:, 1:] > 0
        scores = torch.from_numpy(np.concatenate(values, axis=1)).to(device)
        actions, ends = (scores.new_zeros(mask.shape).masked_scatter(mask, row) for row in scores)
        return {"actions": actions, "ends": ends}

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[Any]:
        """Within the block, the model as it was at the start of the run, with the precision of a step and without gradients."""
        trainer = self.trainer
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            policy = trainer.accelerator.unwrap_model(trainer.model)
            if self.model is None and isinstance(policy, PeftModel):
                stack.enter_context(use_start_model(policy))
            stack.enter_context(make_autocast(trainer.experiment))
            yield self.model if self.model is not None else trainer.model

    # The entries that an earlier part of the run used

    def read_entries(self) -> list[str] | None:
        """The store entries that an earlier part of this run used; None in its first part."""
        assert self.cache is not None
        file = Path(self.trainer.args.output_dir).parent / ENTRIES
        return json.loads(file.read_text(encoding="utf-8")).get(self.cache.model_key) if file.is_file() else None

    def note_entries(self) -> None:
        """Write the names of the store entries that this run uses into its folder, so that its next part uses the same."""
        if self.cache is None:
            return
        self.cache.flush()
        names = sorted(set().union(*collectives.all_gather(self.cache.read)))
        if collectives.is_main():
            files.write_json(Path(self.trainer.args.output_dir).parent / ENTRIES, {self.cache.model_key: names})

    def report(self) -> None:
        """Log how many responses were computed, and how many came from the store."""
        assert self.cache is not None
        computed_count, reused_count = (sum(collectives.all_gather(count)) for count in (self.cache.computed, self.cache.reused))
        log.info("Reference log-probabilities: %d responses computed, %d from the store", computed_count, reused_count)
        self.reported = self.cache.computed


def count_tokens(batch: dict[str, Tensor]) -> list[int]:
    """Response tokens of each sequence of a batch."""
    return (batch["attention_mask"].sum(1) - batch["starts"]).tolist()
