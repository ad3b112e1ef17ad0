"""A reference that is paid once: its log-probabilities come from the store, and what that lacks is computed."""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from lexalign.artifacts import files, fingerprint
from lexalign.cache import cache
from lexalign.cache.cache import ContentCache
from lexalign.cache.reference import ReferenceCache, SummedReferenceCache, make_row_key
from lexalign.distributed import collectives
from lexalign.models.loading import LoadedModel
from lexalign.models.precision import make_autocast
from lexalign.training.fast_training import FastPathMixin

log = logging.getLogger(__name__)
ENTRIES = "reference.json"
PART = ("input_ids", "attention_mask", "completion_mask")


class ReferenceMixin(FastPathMixin):
    """Mixin before TRL's DPOTrainer: pairs in one row, and reference log-probabilities from the store.

    What the reference scores of a row is said in `responses_of`, `reference_parts` and `reference_names`, in one order."""

    alike = 2
    has_reference = True
    reference_names = ("ref_chosen_logps", "ref_rejected_logps")
    """What the loss calls the reference's log-probabilities, (B,) each."""
    args: Any
    data_collator: Any
    precompute_ref_logps: bool
    eval_dataset: Any
    reference: ReferenceCache[Any] | None = None
    told = 0
    """Computed responses that the log knows of."""
    paying = False
    """Whether what is computed of the reference is kept: its last bits depend on the batch, and a trial's batches are not training's."""

    def computed_lengths(self, dataset: Dataset) -> list[int]:
        columns = [dataset[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
        return [sum(map(len, spans)) for spans in zip(*columns, strict=True)]

    def context_of(self, row: dict[str, Any]) -> list[int]:
        """The ids before a response."""
        return row["prompt_ids"]

    def responses_of(self, row: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
        """(context, response) ids of a row's responses."""
        return [(self.context_of(row), row[f"{side}_ids"]) for side in ("chosen", "rejected")]

    def reference_parts(self, inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Ids, attention mask and completion mask of a batch's responses."""
        return [{name: inputs[name] for name in PART}]

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """TRL's own pass, whose cache no other run ever hits; ours is `pay_reference`."""
        return dataset

    def open_reference(self, loaded: LoadedModel) -> None:
        """Take the reference's log-probabilities from the store from now on; what it lacks is computed."""
        key = fingerprint.make_reference_key(
            self.experiment, loaded.base, dtype=str(next(self.model.parameters()).dtype), layout=self.layout
        )
        self.reference = self.reference_store(cache.open_cache(self.experiment, "reference"), key)
        self.precompute_ref_logps = True

    def pay_reference(self) -> None:
        """Compute what the store lacks before the first step of a run of an epoch or more; a shorter one pays as its rows come up."""
        if self.reference is None:
            return
        self.paying = True
        if (entries := self.entries_of_this_run()) is not None:
            self.reference.keep_to(entries)
        visited = (
            self.args.max_steps * self.args.gradient_accumulation_steps * self.args.per_device_train_batch_size * collectives.world_size()
        )
        # Full training changes the model that is its own reference, so there everything is paid before the first step.
        if 0 < visited < len(self.train_dataset) and isinstance(self.model, PeftModel):
            log.info("Reference log-probabilities: computed as the rows come up, less than an epoch is trained")
            self.note_entries()
            return
        with (
            self.reference.alone() if collectives.is_main() else contextlib.nullcontext()
        ):  # of jobs that start together one computes, the others wait
            collectives.barrier()
            self.reference.reload()
            for dataset in filter(None, (self.train_dataset, self.eval_dataset)):
                self._compute_missing(dataset)
            self.reference.flush()
            collectives.barrier()
        self.reference.reload()
        self.note_entries()
        self.tell_reference()

    def entries_of_this_run(self) -> list[str] | None:
        """The entries of the store that an earlier part of this run stood on; None for its first."""
        file = Path(self.args.output_dir).parent / ENTRIES
        assert self.reference is not None
        return json.loads(file.read_text(encoding="utf-8")).get(self.reference.model_key) if file.is_file() else None

    def note_entries(self) -> None:
        """Keep in the run's folder which entries of the store it stands on, so that its next part stands on the same."""
        assert self.reference is not None
        names = sorted(set().union(*collectives.all_gather(self.reference.read)))
        if collectives.is_main():
            files.write_json(Path(self.args.output_dir).parent / ENTRIES, {self.reference.model_key: names})

    def reference_store(self, on: ContentCache, model_key: str) -> ReferenceCache[Any]:
        """Where the reference's numbers are kept, in the form that the loss needs."""
        return SummedReferenceCache(on, model_key)

    def reference_pass(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The reference's summed log-probabilities, (B,) each, in the order of `reference_names`."""
        extra = {} if self.layout == "trl" else {"details": False}
        return tuple(self.compute_ref_log_probs(self.model, {name: inputs[name] for name in PART} | extra))  # type: ignore[attr-defined]

    def reference_scores(self, inputs: dict[str, Tensor]) -> list[Any]:
        """What is to be kept of each response of a batch, computed; in the order of `reference_parts`."""
        return list(zip(torch.cat(self.reference_pass(inputs)).tolist(), self.scored_tokens(inputs), strict=True))

    def reference_columns(self, values: list[Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What was kept of each response of a batch, as the loss reads it."""
        sums, lengths = zip(*values, strict=True)
        assert list(lengths) == self.scored_tokens(inputs), "the store's numbers are of other responses than the batch's"
        halves = torch.tensor(sums, device=inputs["input_ids"].device).chunk(2)
        return dict(zip(self.reference_names, halves, strict=True))

    def scored_tokens(self, inputs: dict[str, Tensor]) -> list[int]:
        """The tokens of each response of a batch, in the order of `reference_parts`."""
        return [length for part in self.reference_parts(inputs) for length in part["completion_mask"].sum(1).tolist()]

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[None]:
        """The model as the run found it, without gradients: as TRL's `compute_ref_log_probs`, for what that does not give."""
        policy = self.accelerator.unwrap_model(self.model)  # type: ignore[attr-defined]
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs))
            if isinstance(policy, PeftModel):
                stack.enter_context(use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None))
            stack.enter_context(make_autocast(self.experiment))
            yield

    def tell_reference(self) -> None:
        """How many responses were paid for, and how many not."""
        assert self.reference is not None
        computed, reused = (sum(collectives.all_gather(count)) for count in (self.reference.computed, self.reference.reused))
        log.info("Reference log-probabilities: %d responses computed, %d from the store", computed, reused)
        self.told = self.reference.computed

    def _compute_missing(self, dataset: Dataset) -> None:
        """Bring the rows that the store lacks into it, in batches."""
        length = self.args.max_length
        missing = []
        for at, row in enumerate(dataset):
            spans = self.responses_of(row)
            keys = [make_row_key(context[:length], response[: max(0, length - len(context))]) for context, response in spans]
            if self.reference.known(keys) is None:
                missing.append(at)
        size = self.args.per_device_train_batch_size
        missing = collectives.shard(missing)
        self.model.eval()
        for first in tqdm(range(0, len(missing), size), desc="Reference log-probabilities", unit="batch", disable=len(missing) < 50 * size):
            rows = [dataset[at] for at in missing[first : first + size]]
            wanted = self._signature_columns or list(rows[0])  # type: ignore[attr-defined]
            batch = self.data_collator([{name: row[name] for name in wanted if name in row} for row in rows])
            self.with_reference(self._prepare_inputs(batch))  # type: ignore[attr-defined]
        self.model.train()

    def with_reference(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with the reference's log-probabilities of its responses; those not in the store are computed."""
        if self.reference is None:
            return inputs
        parts = self.reference_parts(inputs)
        keys = [make_row_key(*spans) for part in parts for spans in list_contexts_and_responses(part)]
        values = self.reference.known(keys, count=self.paying)
        if values is None:
            assert isinstance(self.model, PeftModel) or self.state.global_step == 0, "the reference is gone: the model was trained"  # type: ignore[attr-defined]
            values = self.reference_scores(inputs)
            if self.paying:
                self.reference.add(dict(zip(keys, values, strict=True)))
                values = [self.reference.values[key] for key in keys]
        return {**inputs, **self.reference_columns(values, inputs)}

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        return super()._compute_loss(model, self.with_reference(inputs), return_outputs)  # type: ignore[misc]

    def note(self, inputs: dict[str, Tensor], rewards: tuple[Tensor, Tensor], **terms: Tensor) -> None:
        """Record the terms of a loss of ours and the rewards, (B,) each, under TRL's names where it has one."""
        mode = "train" if self.model.training else "eval"
        gather, kept = self.accelerator.gather_for_metrics, self._metrics[mode]  # type: ignore[attr-defined]
        chosen, rejected = (gather(reward) for reward in rewards)
        noted = {
            **{f"loss/{name}": gather(term.detach()) for name, term in terms.items()},
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
        }
        for name, values in noted.items():
            kept[name].append(values.float().mean().item())
        if mode == "train":
            self._total_train_tokens += int(gather(inputs["attention_mask"].sum()).sum())  # type: ignore[attr-defined]
        kept["num_tokens"] = [self._total_train_tokens]  # type: ignore[attr-defined]

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """TRL's; a run that goes on from it finds the numbers that this one met."""
        if self.reference is not None:
            self.reference.flush()
            self.note_entries()
        super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's, and what was computed of the reference is kept even where training ends early."""
        self.pay_reference()
        try:
            return super().train(*args, **kwargs)  # type: ignore[misc]
        finally:
            if self.reference is not None and self.reference.computed > self.told:
                self.reference.flush()
                if collectives.world_size() == 1:  # they need not all come by here
                    self.tell_reference()


def list_contexts_and_responses(inputs: dict[str, Tensor]) -> list[tuple[list[int], list[int]]]:
    """The ids before the response and of the response of each row of a batch."""
    lengths = inputs["attention_mask"].sum(1).tolist()
    responses = inputs["completion_mask"].sum(1).tolist()
    rows = inputs["input_ids"].tolist()
    return [(row[: n - r], row[n - r : n]) for row, n, r in zip(rows, lengths, responses, strict=True)]
