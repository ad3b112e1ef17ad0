"""The frozen model that a method measures from, a member of the trainer: its numbers come from the store; what is missing is computed."""

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
    """Log-probabilities of the model as the run found it: the policy without its adapter, with the copy of an adapter that is trained on,
    or (full training) what was computed before the first step, or a copy of the model (`is_stored` false)."""

    def __init__(self, trainer: Any, loaded: LoadedModel, *, is_stored: bool, model: Any = None):
        self.trainer = trainer
        self.kind = trainer.objective.reference
        self.model = model
        """A model of its own; None where the policy itself can be asked."""
        self.cache: ReferenceCache[Any] | None = None
        self.is_counting = False
        """Whether what is computed is kept: its last bits depend on the batch, and a trial's batches are not training's."""
        self.reported = 0
        """Computed responses that the log knows of."""
        if is_stored:
            self.open_cache(loaded)

    def open_cache(self, loaded: LoadedModel) -> None:
        """Take the numbers from the store from now on."""
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
        """Compute what the store lacks before the first step of a run of an epoch or more; a shorter one computes as its rows come up."""
        if self.cache is None:
            return
        trainer, args = self.trainer, self.trainer.args
        self.is_counting = True
        if (entries := self.read_entries()) is not None:
            self.cache.keep_to(entries)
        visited_rows = args.max_steps * args.gradient_accumulation_steps * args.per_device_train_batch_size * collectives.world_size()
        # Full training changes the model that is its own reference, so there everything is computed before the first step.
        if 0 < visited_rows < len(trainer.train_dataset) and isinstance(trainer.model, PeftModel):
            log.info("Reference log-probabilities: computed as the rows come up, less than an epoch is trained")
            self.note_entries()
            return
        # Of jobs that start together one computes, the others wait.
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
        """Keep what was computed, also where training ends early."""
        if self.cache is not None and self.cache.computed > self.reported:
            self.cache.flush()
            if collectives.world_size() == 1:  # they need not all come by here
                self.report()

    def compute_missing(self, dataset: Dataset) -> None:
        """Bring the rows that the store lacks into it, in batches."""
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
        """The batches of sequences that a batch holds."""
        return [batch, *([batch["mismatched"]] if "mismatched" in batch else [])]

    # The numbers

    def look_up(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The reference's numbers of a batch's sequences, as `Scores.reference` holds them; those not in the store are computed."""
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
        """The key of each sequence: what stands before the response, the response, its weights."""
        return [make_row_key(*spans) for spans in list_spans(batch)]

    def compute(self, batch: dict[str, Tensor]) -> list[Any]:
        """What is kept of each sequence, computed: (sum, number of tokens), or the scores of each response token (2, n)."""
        objective = self.trainer.objective
        with self.as_reference() as model:
            token_scores = self.trainer.score(model, batch, details=False, temperature=objective.reference_temperature)
        weights = batch["weights"][:, 1:]
        if self.kind == "sums":
            return list(zip((token_scores.log_probs * weights).sum(1).tolist(), count_tokens(batch), strict=True))
        scores, mask = torch.stack((token_scores.log_probs, token_scores.also)).float().cpu().numpy(), (weights > 0).cpu().numpy()
        return [scores[:, at, row_mask] for at, row_mask in enumerate(mask)]

    def arrange(self, values: list[Any], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What was kept of each sequence as tensors of the batch."""
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
        """The model as the run found it, in the arithmetic of a step, without gradients."""
        trainer = self.trainer
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            policy = trainer.accelerator.unwrap_model(trainer.model)
            if self.model is None and isinstance(policy, PeftModel):
                stack.enter_context(use_start_model(policy))
            stack.enter_context(make_autocast(trainer.experiment))
            yield self.model if self.model is not None else trainer.model

    # What an earlier part of the run stood on

    def read_entries(self) -> list[str] | None:
        """The entries of the store that an earlier part of this run stood on; None for its first."""
        assert self.cache is not None
        file = Path(self.trainer.args.output_dir).parent / ENTRIES
        return json.loads(file.read_text(encoding="utf-8")).get(self.cache.model_key) if file.is_file() else None

    def note_entries(self) -> None:
        """Keep in the run's folder which entries of the store it stands on, so that its next part stands on the same."""
        if self.cache is None:
            return
        self.cache.flush()
        names = sorted(set().union(*collectives.all_gather(self.cache.read)))
        if collectives.is_main():
            files.write_json(Path(self.trainer.args.output_dir).parent / ENTRIES, {self.cache.model_key: names})

    def report(self) -> None:
        """Say how many responses were computed, and how many were there."""
        assert self.cache is not None
        computed_count, reused_count = (sum(collectives.all_gather(count)) for count in (self.cache.computed, self.cache.reused))
        log.info("Reference log-probabilities: %d responses computed, %d from the store", computed_count, reused_count)
        self.reported = self.cache.computed


def count_tokens(batch: dict[str, Tensor]) -> list[int]:
    """Response tokens of each sequence of a batch."""
    return (batch["attention_mask"].sum(1) - batch["starts"]).tolist()
