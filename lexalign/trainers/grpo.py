"""Reinforcement learning on the model's own answers: TRL's GRPOTrainer with our prompts and rewards (arXiv 2402.03300, 2601.05242)."""

import contextlib
import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from accelerate.utils import gather, set_seed
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from trl.trainer.utils import add_fused_lm_head

from lexalign.cache.tokens import TokenCache
from lexalign.config.schema import Experiment, GrpoMethod, RewardMethod
from lexalign.data.rendering import Renderer, get_row_arguments
from lexalign.data.rows import Row, Splits
from lexalign.distributed import sharding
from lexalign.errors import DataError
from lexalign.models.adapters import make_lora_config, use_start_model
from lexalign.models.loading import LoadedModel
from lexalign.rewards.panel import Panel
from lexalign.training import arguments, policy
from lexalign.training.checkpointing import Checkpointing

log = logging.getLogger(__name__)


class DeadGroups(TrainerCallback, ExportableState):
    """Counts the dead groups of each reward: all answers of a dead group have the same value.

    Such a group gives no gradient of that reward. In gdpo_rl it also changes the scale of the other groups. Checkpoints save the counts.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.groups = 0
        self.dead = [0] * len(self.names)

    def add(self, groups: int, dead_counts: Sequence[int]) -> None:
        """Add the groups of a step. The second argument has the number of dead groups of each reward."""
        self.groups += groups
        self.dead = [count + int(addition) for count, addition in zip(self.dead, dead_counts, strict=True)]

    def counts(self) -> dict[str, int]:
        """The number of all groups, and of the dead groups of each reward."""
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
"""Number of prompts on which policy and reference are compared at step 0."""


class RewardColumn:
    """One reward of the panel, as a reward function for TRL. The panel judges each batch of answers once."""

    def __init__(self, trainer: "GrpoTrainer", name: str):
        self.trainer = trainer
        self.__name__ = name

    def __call__(self, *, completions: list[Any], row: list[int], log_metric: Any, **_: Any) -> list[float]:
        return self.trainer.judge(completions, row, log_metric)[self.__name__]


class GrpoTrainer(trl.GRPOTrainer):
    """TRL's GRPOTrainer: the weighted sum of rewards, normalised within each group. transformers generates the answers, not vLLM."""

    has_reference = False
    """Whether there is a KL term. There is one if `method.beta` is above 0."""
    generates = True
    """The trainer generates the answers of its batches itself, so they do not exist before training."""
    aggregation = "sum_then_normalize"

    def __init__(
        self,
        *,
        experiment: Experiment,
        loaded: LoadedModel,
        splits: Splits,
        renderer: Renderer,
        tokens: TokenCache,
        out_dir: Path,
        callbacks: list[Any],
    ):
        method, train, adapter = experiment.method, experiment.train, experiment.adapter
        assert isinstance(method, RewardMethod) and train is not None and adapter is not None
        panel = Panel.from_experiment(experiment)
        assert panel is not None
        self.experiment, self.panel, self.renderer = experiment, panel, renderer
        self.judged: tuple[Any, dict[str, list[float]]] = (None, {})
        self.rows = [*splits.train, *splits.held_out]
        # TRL would load the reference of a full model from its path again, without an adapter that was merged into it.
        reference = copy.deepcopy(loaded.model) if adapter.kind == "full" and method.beta else None
        data = [{"prompt": make_prompt(row, renderer), "row": at} for at, row in enumerate(self.rows)]
        train_data, held_out = data[: len(splits.train)], data[len(splits.train) :]
        is_new = adapter.kind != "full" and not isinstance(loaded.model, PeftModel)
        super().__init__(
            model=loaded.model,
            reward_funcs=[RewardColumn(self, name) for name in panel.names],
            args=self.trl_arguments(experiment, panel, out_dir, beta=0.0 if reference is not None else method.beta),
            train_dataset=Dataset.from_list(train_data),
            eval_dataset=Dataset.from_list(held_out) if train.eval_steps else None,
            processing_class=loaded.tokenizer,
            peft_config=make_lora_config(adapter, loaded.model) if is_new else None,
            callbacks=[*callbacks, DeadGroups(panel.names)],
        )
        if adapter.bits is not None:
            policy.restore_adapter_type(self.model)
        if reference is not None:
            self.measure_from(reference, method.beta)
        self.has_reference = method.beta > 0
        self.left_out = self.leave_out(len(train_data))
        self.checkpointing = Checkpointing(self)
        log.info("Fast path: not for this method: TRL's own forward, each answer with its prompt")

    def trl_arguments(self, experiment: Experiment, panel: Panel, out_dir: Path, *, beta: float) -> trl.GRPOConfig:
        """Our settings as TRL's arguments."""
        method = experiment.method
        assert isinstance(method, RewardMethod)
        return trl.GRPOConfig(
            **arguments.make_training_arguments(experiment, out_dir),
            activation_checkpointing=False,  # lexalign.training.memory decides
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
        """Use a separate model as the reference of the KL term, as TRL does with a model that it loads."""
        self.beta = self.args.beta = beta
        add_fused_lm_head(reference, temperature=self.temperature)
        self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)

    @torch.no_grad()
    def reference_gap(self) -> float:
        """The largest difference between the log-probabilities of policy and reference, over the tokens of the first prompts."""
        self.model.eval()
        largest = 0.0
        for row in self.rows[:LOOKED_AT]:
            ids = torch.tensor([self.renderer.render_prompt(row["prompt"], **get_row_arguments(row))], device=self.args.device)
            policy_scores = score_prompt(self.model, ids)
            with contextlib.nullcontext(self.ref_model) if self.ref_model is not None else use_start_model(self.model) as reference:
                largest = max(largest, float((policy_scores - score_prompt(reference, ids)).abs().max()))
        self.model.train()
        return largest

    def leave_out(self, prompts: int) -> int:
        """The number of prompts left out of each epoch because they do not fill a step. Raises DataError if no step can be filled."""
        size = self.args.generation_batch_size // self.num_generations
        if prompts < size:
            raise DataError(
                f"{prompts} prompts do not fill a step of {size} (train.batch_size × gradient_accumulation_steps / method.generations); "
                f"type train.batch_size={max(1, prompts * self.num_generations // self.args.gradient_accumulation_steps)} or less"
            )
        if remainder := prompts % size:
            log.warning("%d of %d prompts are left out of each epoch (others each time): a step takes %d at once", remainder, prompts, size)
        return prompts % size

    @property
    def counts(self) -> dict[str, int]:
        """The counts of this method for the result of the run."""
        return {"prompts_left_out_each_epoch": self.left_out, **self.dead_groups.counts()}

    @property
    def dead_groups(self) -> DeadGroups:
        """The callback that counts dead groups. A resumed run replaces it by the checkpoint's."""
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, DeadGroups))

    def largest_batch(self) -> int:
        """The number of tokens in the largest possible batch: all rows have the longest prompt and an answer of full length."""
        rows = self.rows[: len(self.train_dataset)]
        longest_prompt = max(len(self.renderer.render_prompt(row["prompt"], **get_row_arguments(row))) for row in rows)
        return self.args.per_device_train_batch_size * (longest_prompt + self.max_completion_length)

    def judge(self, completions: list[Any], row: list[int], log_metric: Any) -> dict[str, list[float]]:
        """The values of each reward for all answers, by name. Dead groups are counted."""
        if self.judged[0] is completions:
            return self.judged[1]
        texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
        values = self.panel.score([self.rows[at] for at in row], texts)
        own_rewards = torch.tensor([values[name] for name in self.panel.names], dtype=torch.float32, device=self.accelerator.device).T
        # Held-out answers have groups of the same size; rules/rewards.py checks it.
        groups = gather(own_rewards.contiguous()).view(-1, self.num_generations, len(self.panel.names))
        is_dead = (groups == groups[:, :1]).all(1)
        for name, share in zip(self.panel.names, is_dead.float().mean(0).tolist(), strict=True):
            log_metric(f"rewards/{name}/dead_groups", share)
        if self.model.training:
            self.dead_groups.add(len(groups), is_dead.sum(0).tolist())
        self.judged = (completions, values)
        return values

    # Steps and checkpoints

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Run TRL's training. Each process gets its own seed for its answers."""
        set_seed(self.args.seed, device_specific=True)
        self.checkpointing.begin(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        return self.checkpointing.watch_step(super().training_step(model, inputs, num_items_in_batch), inputs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        return ([], None) if self.checkpointing.is_done() else super().get_batch_samples(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        sharding.enter_zero3(self.args, yes=True)
        return super().create_optimizer(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing. TRL would write a card into every checkpoint and ask wandb for a URL for it."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.checkpointing.correct_log(logs)
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.checkpointing.save(lambda: super(GrpoTrainer, self)._save_checkpoint(model, trial))

    def carry(self) -> dict[str, Any]:
        """The state of this process for a checkpoint: the current answers, the position in them, the metrics since the last log line."""
        metrics = {mode: dict(values) for mode, values in self._metrics.items()}
        return {"answers": self._buffered_inputs, "step": self._step, "metrics": metrics}

    def take_up(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint. If it has no answers, new ones are generated."""
        self._buffered_inputs = state["answers"]
        self._step = state["step"] if state["answers"] is not None else self.state.global_step * self.args.gradient_accumulation_steps
        for mode, values in state["metrics"].items():
            self._metrics[mode].clear()
            self._metrics[mode].update(values)

    @staticmethod
    def merge_carried(states: list[dict[str, Any]]) -> dict[str, Any]:
        """Merge the saved states when the number of processes has changed. The answers are dropped: each process needs another part."""
        return {**states[0], "answers": None}


def score_prompt(model: Any, ids: Tensor) -> Tensor:
    """The log-probabilities of the tokens of a prompt (1, T) except the first, (T-1,)."""
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]


def make_prompt(row: Row, renderer: Renderer) -> str:
    """The text of a prompt for TRL. Its tokenizer makes the same ids from this text as the renderer."""
    return renderer.render_prompt_text(row["prompt"], **get_row_arguments(row))
