"""The trainer of every method. It scores the rows with the policy and the reference, computes the method's loss, and logs."""

import copy
import itertools
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from lexalign.cache.tokens import TokenCache
from lexalign.config.schema import DpoMethod, Experiment
from lexalign.data.rendering import Renderer
from lexalign.data.rows import Splits
from lexalign.distributed import collectives, sharding
from lexalign.fast_path import exactness
from lexalign.models.loading import LoadedModel
from lexalign.training import arguments, batches, coupling, policy
from lexalign.training.checkpointing import Checkpointing
from lexalign.training.collator import SpanCollator, make_dataset
from lexalign.training.metrics import MetricWindow, note_details
from lexalign.training.objective import LossOutput, Objective, Scores
from lexalign.training.reference import Reference

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class StepTotals:
    """The totals of an optimizer step over all its batches and processes. The losses are divided by them."""

    rows: float
    tokens: float
    batches: list[Any]
    """This process's batches of the step."""
    measured: dict[str, Tensor] | None = None
    """The result of `Objective.measure_step`; None before the step's first batch."""
    scores: coupling.StepScores | None = None
    """The scores of the whole step, if its rows are coupled."""


class MethodTrainer(Trainer):
    """transformers' trainer with an `Objective`. Checkpoints, the reference and the metrics are members."""

    def __init__(
        self,
        *,
        objective: Objective,
        experiment: Experiment,
        loaded: LoadedModel,
        splits: Splits,
        renderer: Renderer,
        tokens: TokenCache,
        out_dir: Path,
        callbacks: list[Any],
    ):
        train, method = experiment.train, experiment.method
        assert train is not None and experiment.adapter is not None
        self.experiment, self.objective = experiment, objective
        model = policy.attach_adapter(experiment, loaded, needs_start=objective.reference is not None)
        if not objective.keeps_dropout:
            policy.switch_off_dropout(model)
        super().__init__(
            model=model,
            args=TrainingArguments(**arguments.make_training_arguments(experiment, out_dir)),
            data_collator=SpanCollator(pad=loaded.tokenizer.pad_token_id, max_length=train.max_length, objective=objective),
            train_dataset=prepare_rows(experiment, objective, splits, renderer, tokens, name="train"),
            eval_dataset=prepare_rows(experiment, objective, splits, renderer, tokens, name="held_out") if train.eval_steps else None,
            processing_class=loaded.tokenizer,
            callbacks=callbacks,
        )
        # The loss is divided by the totals of the whole step, so transformers must not divide it by the number of batches.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = True
        self.metrics = {"train": MetricWindow(), "eval": MetricWindow()}
        self.computed_tokens = 0
        """Tokens of this process's training batches. A pair's prompt counts twice."""
        is_stored = not isinstance(method, DpoMethod) or method.precompute_reference
        if objective.reference is not None and is_stored:
            is_stored = not self.depends_on_lengths(train.max_length)
        own_model = None
        if objective.reference is not None and not is_stored and experiment.adapter.kind == "full":
            own_model = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.layout = policy.install_fast_path([self.model, *filter(None, [own_model])], self)
        self.reference = Reference(self, loaded, is_stored=is_stored, model=own_model) if objective.reference is not None else None
        self.checkpointing = Checkpointing(self)
        objective.setup(self)

    def depends_on_lengths(self, longest: int) -> bool:
        """Whether the scores of a row depend on the other rows of its batch. Then the reference's scores cannot be stored, and the log says
        so."""
        reason = exactness.find_length_dependence(policy.get_base_model(self.model), longest=longest)
        if reason is not None:
            log.info("Reference log-probabilities: computed at each step and not stored, because %s", reason)
        return reason is not None

    @property
    def has_reference(self) -> bool:
        """Whether rewards are measured from a reference. Step 0 can then check it."""
        return self.reference is not None

    # Batches

    def make_train_sampler(self) -> Any:
        """The order of the training rows."""
        train = self.experiment.train
        assert train is not None
        return batches.make_train_sampler(self.train_dataset, train, self.experiment.seed, is_sequential=self.objective.is_sequential)

    def get_train_dataloader(self) -> Any:
        train = self.experiment.train
        assert train is not None
        sampler = self.make_train_sampler()
        return batches.make_loader(self, self.train_dataset, sampler, batch_size=train.batch_size, seed=self.experiment.seed)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        return batches.make_loader(self, rows, SequentialSampler(rows), batch_size=self.count_held_out_rows(), seed=0)

    def count_held_out_rows(self) -> int:
        """The number of held-out rows in a batch, over all processes. A method with a fixed row order uses the training batch size."""
        assert self.experiment.train is not None
        return self.experiment.train.batch_size if self.objective.is_sequential else self.experiment.evaluate.batch_size

    def make_batch(self, dataset: Any, rows: list[int]) -> dict[str, Any]:
        """A batch of the rows at these indices of a data set, on the device."""
        return send_to_device(self.data_collator([dataset[at] for at in rows]), self.args.device)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The batches of an optimizer step, and the totals that their losses are divided by."""
        if self.checkpointing.is_done():
            return [], None
        step = list(itertools.islice(epoch_iterator, num_batches))
        return step, self.count_totals(step)

    def count_totals(self, step: list[Any], *, everywhere: bool = True) -> StepTotals:
        """The rows and trained tokens of the batches of a step; over all processes if `everywhere`."""
        own_counts = tuple(sum(batch["counts"][name] for batch in step) for name in ("rows", "trained"))
        parts = collectives.all_gather(own_counts) if everywhere else [own_counts]
        rows, tokens = (sum(part[index] for part in parts) for index in (0, 1))
        return StepTotals(rows=rows, tokens=tokens, batches=step)

    # The loss

    def score(self, model: Any, batch: dict[str, Any], *, details: bool, temperature: float = 1.0) -> Any:
        """The fast path's `TokenScores` of a batch of sequences."""
        objective, options = self.objective, {}
        if objective.scores_end:
            options |= {"also": objective.end_token, "temperature": temperature}
        if objective.reads_logits:
            options["positions"] = batch["context_lengths"][: batch["counts"]["rows"]] - 1
        spans = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        return model(**spans, details=details, use_cache=False, fused_lm_head=True, **options)

    def score_mismatched(self, batch: dict[str, Any]) -> Tensor:
        """The log-ratios (R,) of sequences that are not trained on, without gradient."""
        assert self.reference is not None
        batch = send_to_device(batch, self.args.device)
        with torch.no_grad():
            token_scores = self.score(self.model, batch, details=False)
        return (token_scores.log_probs * batch["weights"][:, 1:]).sum(1) - self.reference.look_up(batch)["sums"]

    def collect_scores(self, token_scores: Any, batch: dict[str, Any], totals: StepTotals) -> Scores:
        """The scores of a batch, for the objective."""
        if totals.measured is None:
            totals.measured = self.objective.measure_step(self, totals.batches)
        return Scores(
            log_probs=token_scores.log_probs,
            weights=batch["weights"][:, 1:],
            belief_mask=batch["belief_mask"][:, 1:],
            label_mask=token_scores.label_mask,
            extras={name: batch[name] for name in self.objective.columns},
            reference=self.reference.look_up(batch) if self.reference is not None else {},
            ends=token_scores.also,
            logits=token_scores.logits,
            step=totals.measured,
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: StepTotals | None = None
    ) -> Any:
        """The part of a batch in the loss of its step. Without totals, the batch is treated as a whole step."""
        totals, processes = num_items_in_batch or self.count_totals([inputs], everywhere=False), collectives.world_size()
        is_step = num_items_in_batch is not None
        if is_step and self.objective.couples_rows and len(totals.batches) * processes > 1 and totals.scores is None:
            totals.scores = coupling.score_step(self, totals.batches)
        token_scores = self.score(model, inputs, details=self.objective.has_details)
        scores = self.collect_scores(token_scores, inputs, totals)
        output = self.objective.compute(scores)
        if totals.scores is not None:
            step_output = self.objective.compute(totals.scores.replace_next(scores))
            loss = self.combine(step_output, totals)
            # The gradient is that of these rows. The value is the step's loss, divided equally among its batches.
            loss = processes * (loss - loss.detach()) + loss.detach() / len(totals.batches)
        else:
            loss = self.combine(output, totals) * (processes if is_step else 1)  # the processes' gradients are averaged
        if token_scores.aux_loss is not None:  # of experts, while they are trained; multiplied by the model's own coefficient
            loss = loss + token_scores.aux_loss * inputs["counts"]["rows"] / totals.rows * (processes if is_step else 1)
            self.metrics[self.mode].add("loss/router", token_scores.aux_loss)
        self.note(inputs, token_scores, scores, output, totals)
        return (loss, scores) if return_outputs else loss

    @staticmethod
    def combine(output: LossOutput, totals: StepTotals) -> Tensor:
        """The sums of a batch's losses, divided by the totals of the step."""
        parts = [] if output.loss is None else [output.loss.sum() / totals.rows]
        if output.token_loss is not None:
            parts.append(output.token_loss.sum() / max(1.0, totals.tokens))
        loss = parts[0]
        for part in parts[1:]:
            loss = loss + part
        return loss

    # The log

    @property
    def mode(self) -> str:
        """train or eval: the mode of the model."""
        return "train" if self.model.training else "eval"

    def note(self, batch: dict[str, Any], token_scores: Any, scores: Scores, output: LossOutput, totals: StepTotals) -> None:
        """Add the numbers of a batch to the metrics."""
        window, rows = self.metrics[self.mode], batch["counts"]["rows"]
        if self.model.training:
            self.computed_tokens += batch["counts"]["computed"]
        else:
            if output.loss is not None:
                window.add("loss/rows", output.loss)
            if output.token_loss is not None:
                window.add("loss/tokens", output.token_loss.sum(), totals.tokens)
        for name, values in output.terms.items():
            window.add(name, *values) if isinstance(values, tuple) else window.add(name, values)
        groups = self.list_groups(batch, rows, scores)
        if self.objective.has_details:
            note_details(window, token_scores, scores.weights, groups)
        if output.rewards is not None:
            self.note_rewards(window, output.rewards, scores, groups)

    def list_groups(self, batch: dict[str, Any], rows: int, scores: Scores) -> dict[str, Tensor]:
        """The indices of the preferred sequences (chosen) and of the others (rejected)."""
        indices = torch.arange(len(batch["input_ids"]), device=batch["input_ids"].device)
        if self.objective.rows == "pair":
            return {"chosen": indices[:rows], "rejected": indices[rows:]}
        if "label" in scores.extras:
            is_preferred = scores.extras["label"] > 0
            return {"chosen": indices[is_preferred], "rejected": indices[~is_preferred]}
        return {}

    def note_rewards(self, window: MetricWindow, rewards: Tensor, scores: Scores, groups: dict[str, Tensor]) -> None:
        """Add the rewards to the metrics, and the log-probabilities if the objective has details."""
        for name, rows in groups.items():
            window.add(f"rewards/{name}", rewards[rows])
            if self.objective.has_details:
                window.add(f"logps/{name}", (scores.means if self.objective.logs_means else scores.sums)[rows])
        if self.objective.rows == "pair":
            chosen, rejected = rewards.chunk(2)
            window.add("rewards/margins", chosen - rejected)
            window.add("rewards/accuracies", (chosen > rejected).float())

    def read_metrics(self, mode: str) -> dict[str, float]:
        """The means since the last log line over all processes, by their logged names."""
        means = self.metrics[mode].gathered_means()
        if self.objective.rows == "answer" and {"rewards/chosen", "rewards/rejected"} <= means.keys():
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
        parts = [means.pop(name) for name in ("loss/rows", "loss/tokens") if name in means]
        return means | ({"loss": sum(parts)} if parts else {})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.checkpointing.correct_log(logs)
        mode = "eval" if any(name.startswith("eval_") for name in logs) else "train"
        means = self.read_metrics(mode)
        if mode == "eval" or "loss" in logs:
            means["num_tokens"] = sum(collectives.all_gather(self.computed_tokens))
        logs.update(means if mode == "train" else {f"eval_{name}": value for name, value in means.items()})
        self.metrics[mode].clear()
        super().log(logs, start_time)

    @contextmanager
    def trial(self) -> Iterator[dict[str, MetricWindow]]:
        """Within the block, numbers do not reach the log. Yields the windows that receive them instead."""
        outer_state = self.metrics, self.computed_tokens
        self.metrics = {"train": MetricWindow(), "eval": MetricWindow()}
        try:
            yield self.metrics
        finally:
            self.metrics, self.computed_tokens = outer_state

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """The loss of a batch of held-out rows. `log` replaces the mean over batches by the mean over rows."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, send_to_device(inputs, self.args.device)).detach(), None, None

    # Steps and checkpoints

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        if self.reference is not None:
            self.reference.prepare()
        self.checkpointing.begin(resume_from_checkpoint)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self.reference is not None:
                self.reference.finish()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        return self.checkpointing.watch_step(super().training_step(model, inputs, num_items_in_batch), inputs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create transformers' optimizer. This is the last call before DeepSpeed takes the model."""
        sharding.enter_zero3(self.args, yes=True)
        return super().create_optimizer(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.reference is not None:
            self.reference.note_entries()
        self.checkpointing.save(lambda: super(MethodTrainer, self)._save_checkpoint(model, trial))

    def carry(self) -> dict[str, Any]:
        """The state of this process that a checkpoint saves in addition to transformers' own."""
        return {"tokens": self.computed_tokens, "metrics": {mode: window.state() for mode, window in self.metrics.items()}}

    def take_up(self, state: dict[str, Any]) -> None:
        """Restore the state that a checkpoint saved."""
        self.computed_tokens = state["tokens"]
        for mode, sums in state["metrics"].items():
            self.metrics[mode].restore(sums)

    @staticmethod
    def merge_carried(states: list[dict[str, Any]]) -> dict[str, Any]:
        """Merge the saved states when the number of processes has changed. The first process gets all counts."""
        metrics: dict[str, Any] = {}
        for state in states if collectives.is_main() else []:
            for mode, sums in state["metrics"].items():
                mode_sums = metrics.setdefault(mode, {})
                for name, (value, count) in sums.items():
                    total = mode_sums.get(name, [0.0, 0.0])
                    mode_sums[name] = [total[0] + value, total[1] + count]
        return {"tokens": sum(state["tokens"] for state in states) if collectives.is_main() else 0, "metrics": metrics}


def prepare_rows(experiment: Experiment, objective: Objective, splits: Splits, renderer: Renderer, tokens: TokenCache, *, name: str) -> Any:
    """The data set of the `train` or `held_out` rows. The objective checks them, counts unusual rows and logs them."""
    train = experiment.train
    assert train is not None
    rows = splits.train if name == "train" else splits.held_out
    step = train.batch_size
    if objective.is_sequential and name == "train":
        rows = random.Random(experiment.seed).sample(rows, len(rows))
        step *= train.gradient_accumulation_steps
    dataset = make_dataset(rows, objective, renderer, tokens, max_length=train.max_length, step=step, packing=train.packing)
    objective.check_rows(dataset, rows, name=name, counts=splits.counts, max_length=train.max_length)
    return dataset
