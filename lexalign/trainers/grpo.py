"""Reinforcement on the model's own answers: TRL's GRPOTrainer on our prompts and rewards (arXiv 2402.03300 and 2601.05242)."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from accelerate.utils import gather, set_seed
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from trl.trainer.utils import add_fused_lm_head, use_adapter

from lexalign.cache.tokens import TokenCache
from lexalign.config.schema import Experiment, GrpoMethod, RewardMethod
from lexalign.data.rendering import Renderer, pad_rows
from lexalign.data.rows import Row, Splits
from lexalign.errors import DataError
from lexalign.models.loading import LoadedModel
from lexalign.rewards.panel import Panel
from lexalign.training import arguments
from lexalign.training.fast_training import NoModelCard

log = logging.getLogger(__name__)


class DeadGroups(TrainerCallback, ExportableState):
    """Counts the groups whose answers all have the same reward: they teach nothing of it, and (gdpo_rl) rescale what the others teach.

    Checkpoints keep the counts.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.groups = 0
        self.dead = [0] * len(self.names)

    def add(self, groups: int, dead: Sequence[int]) -> None:
        """Count the groups of a step; `dead` has a number for each reward."""
        self.groups += groups
        self.dead = [before + int(more) for before, more in zip(self.dead, dead, strict=True)]

    def counts(self) -> dict[str, int]:
        """All groups, and the dead ones of each reward."""
        return {"groups": self.groups, **{f"dead_groups/{name}": count for name, count in zip(self.names, self.dead, strict=True)}}

    def state(self) -> dict[str, Any]:
        return {"args": {"names": self.names}, "attributes": {"groups": self.groups, "dead": self.dead}}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for name, count in zip(self.names, self.dead, strict=True):
            if self.groups and count == self.groups:
                log.warning(
                    "The reward %s was the same for all answers of every one of %d groups: it taught nothing; make it tell answers apart, "
                    "or raise method.temperature",
                    name,
                    self.groups,
                )
            elif count:
                log.info("The reward %s was the same within %d of %d groups, which taught nothing of it", name, count, self.groups)


LOOKED_AT = 16
"""Prompts on which policy and reference are compared at step 0."""


class GRPOTrainer(NoModelCard, trl.GRPOTrainer):
    """TRL's GRPOTrainer: the rewards' weighted sum, normalised within each group. Answers are drawn by transformers, not by vLLM."""

    has_reference = False
    """Whether there is a KL term: with `method.beta` above 0."""
    generates = True
    """Its batches are the model's own answers, which nobody has before they are drawn."""
    aggregation = "sum_then_normalize"

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
        assert isinstance(method, RewardMethod) and train is not None and experiment.adapter is not None
        panel = Panel.from_experiment(experiment)
        assert panel is not None
        self.panel = panel
        self.rows = [*splits.train, *splits.held_out]
        # Left to itself, TRL would load a full model's reference from its path again: without an adapter merged into it since.
        reference = copy.deepcopy(loaded.model) if experiment.adapter.kind == "full" and method.beta else None
        data = [{"prompt": make_prompt(row, encoder), "row": at} for at, row in enumerate(self.rows)]
        train_data, held_out = data[: len(splits.train)], data[len(splits.train) :]
        super().__init__(
            model=loaded.model,
            reward_funcs=panel.members,
            args=self.trl_arguments(experiment, panel, out_dir, beta=0.0 if reference is not None else method.beta),
            train_dataset=Dataset.from_list(train_data),
            eval_dataset=Dataset.from_list(held_out) if train.eval_steps else None,
            processing_class=loaded.tokenizer,
            peft_config=arguments.make_peft_config(experiment, loaded),
            callbacks=[*callbacks, DeadGroups(panel.names)],
        )
        arguments.restore_adapter_settings(self.model, experiment)
        if reference is not None:
            self.measure_from(reference, method.beta)
        self.has_reference = method.beta > 0
        self.left_out = self.leave_out(len(train_data))
        log.info("Fast path: not for this method: TRL's own forward, each answer with its prompt")

    def trl_arguments(self, experiment: Experiment, panel: Panel, out_dir: Path, *, beta: float) -> trl.GRPOConfig:
        """Our settings in TRL's words."""
        method = experiment.method
        assert isinstance(method, RewardMethod)
        common = arguments.make_training_arguments(experiment, out_dir)
        del common["max_length"]  # prompts that leave no room are left out before, see lexalign.data.lengths
        return trl.GRPOConfig(
            **common,
            reward_weights=panel.weights,
            multi_objective_aggregation=self.aggregation,
            num_generations=method.generations,
            max_completion_length=method.max_new_tokens,
            temperature=method.temperature,
            beta=beta,
            epsilon=method.epsilon,
            loss_type=method.loss_type,
            num_iterations=method.iterations,
            **({"scale_rewards": method.scale_rewards} if isinstance(method, GrpoMethod) else {}),
        )

    def measure_from(self, reference: Any, beta: float) -> None:
        """Measure the KL term from a model of its own, as TRL does from one that it loaded."""
        self.beta = self.args.beta = beta
        add_fused_lm_head(reference, temperature=self.temperature)
        self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)

    def reference_gap(self) -> float:
        """The largest difference between policy and reference in the log-probability of a token of the first prompts."""
        prompts = self._tokenize_prompts(self.train_dataset["prompt"][:LOOKED_AT])[0]
        ids, mask = (torch.tensor(part, device=self.args.device) for part in pad_rows(prompts, self.processing_class.pad_token_id))
        self.model.eval()

        def log_probs(model: Any) -> Tensor:
            return self._get_per_token_logps_and_entropies(model, ids, mask, ids.shape[1] - 1)[0]

        with torch.no_grad():
            policy = log_probs(self.model)
            if self.ref_model is not None:
                reference = log_probs(self.ref_model)
            else:
                with use_adapter(self.model, adapter_name="ref" if "ref" in self.model.peft_config else None):
                    reference = log_probs(self.model)
        self.model.train()
        return float(((policy - reference) * mask[:, 1:]).abs().max())

    def leave_out(self, prompts: int) -> int:
        """Prompts that each epoch leaves out because they fill no step; raises DataError where no step is filled."""
        at_once = self.args.generation_batch_size // self.num_generations
        if prompts < at_once:
            raise DataError(
                f"{prompts} prompts do not fill a step of {at_once} (train.batch_size × gradient_accumulation_steps / method.generations); "
                f"type train.batch_size={max(1, prompts * self.num_generations // self.args.gradient_accumulation_steps)} or less"
            )
        if left := prompts % at_once:
            log.warning("%d of %d prompts are left out of each epoch (others each time): a step takes %d at once", left, prompts, at_once)
        return prompts % at_once

    @property
    def counts(self) -> dict[str, int]:
        """What the run's result tells beside steps and rows."""
        return {"prompts_left_out_each_epoch": self.left_out, **self.dead_groups.counts()}

    @property
    def dead_groups(self) -> DeadGroups:
        """The callback that counts; a resumed run puts the checkpoint's in its place."""
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, DeadGroups))

    def largest_batch(self) -> int:
        """Tokens of the largest batch that can come up: the longest prompt with full answers, as often as a batch holds one."""
        longest = max(len(ids) for ids in self._tokenize_prompts(self.train_dataset["prompt"][:])[0])
        return self.args.per_device_train_batch_size * (longest + self.max_completion_length)

    def _calculate_rewards(self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
        values = self.panel.score([self.rows[example["row"]] for example in inputs], texts)
        local = torch.tensor([values[name] for name in self.panel.names], dtype=torch.float32, device=self.accelerator.device).T
        found = gather(local.contiguous())
        # Held-out answers come in groups of the same size: rules/rewards.py sees to it.
        groups = found.view(-1, self.num_generations, len(self.panel.names))
        dead = (groups == groups[:, :1]).all(1)
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, share in zip(self.panel.names, dead.float().mean(0).tolist(), strict=True):
            metrics[f"rewards/{name}/dead_groups"].append(share)
        if self.model.training:
            self.dead_groups.add(len(groups), dead.sum(0).tolist())
        return found

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's; each process draws answers of its own."""
        set_seed(self.args.seed, device_specific=True)
        return super().train(*args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self.model.training and self._buffered_inputs is None:
            # A resumed run goes on where the answers were last drawn, not at the first step.
            self._step = self.state.global_step * self.args.gradient_accumulation_steps
        return super()._prepare_inputs(generation_batch)


def make_prompt(row: Row, encoder: Renderer) -> Any:
    """A prompt as TRL takes it: chat turns where the encoder makes some, plain text elsewhere."""
    return encoder.turns(row["prompt"]) if encoder.chat else encoder.plain(row["prompt"])
