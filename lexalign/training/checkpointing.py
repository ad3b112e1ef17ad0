"""Checkpoints, the losses of the steps, and checks for NaN and infinity.

A checkpoint is complete or does not exist. It holds all state that the next step reads. `Checkpointing` is a member of each trainer. A
trainer calls it from six of transformers' hooks (`train`, `training_step`, `get_batch_samples`, `create_optimizer`, `log`,
`_save_checkpoint`) and has `carry()` and `take_up(state)` for its own state.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback

from lexalign.artifacts import checkpoints, disk, files
from lexalign.artifacts.manifest import write_manifest
from lexalign.config.schema import Train
from lexalign.distributed import collectives, sharding
from lexalign.training import divergence, signals

log = logging.getLogger(__name__)
CARRIED = "carried.pt"


def get_state_file(process: int) -> str:
    """The name of the file with the state of a process."""
    return CARRIED if process == 0 else f"carried-{process}.pt"


class Checkpointing(TrainerCallback):
    """Saves, restores and watches one trainer. Call `watch` before the trainer's `train`."""

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.batches: list[Any] = []
        self.step_loss = 0.0
        self.window = [0.0, 0]
        """The sum and the number of the step losses since the last log line."""
        self.total = [0.0, 0]
        """The sum and the number of the step losses since the first step."""
        self.seconds = 0.0
        self.resumed: Path | None = None
        self.resumed_step = 0
        self.watch_gradient()
        trainer.add_callback(self)

    def watch(self, train: Train, made_of: dict[str, Any]) -> None:
        """Take the settings from `train`. `made_of` holds the inputs of the run, for the manifest of each checkpoint."""
        self.made_of = made_of
        self.keep = train.keep_checkpoints
        self.monitor = divergence.LossMonitor(train)
        self.started = time.time()

    # Saving

    def save(self, write: Callable[[], None]) -> None:
        """Make transformers write a checkpoint into a temporary folder. The folder is renamed when it is complete; old checkpoints are then
        removed.

        Raises Stopped if the run was asked to stop.
        """
        trainer = self.trainer
        folder = Path(trainer.args.output_dir) / f"{checkpoints.PREFIX}{trainer.state.global_step}"
        if not collectives.broadcast(folder.is_dir()):  # the last step of an epoch may be saved already
            self.refuse_bad_weights()
            with self.open_folder(folder) as temporary_folder:
                trainer.args.output_dir = str(temporary_folder)
                try:
                    write()
                finally:
                    trainer.args.output_dir = str(folder.parent)
                torch.save(self.carry(), temporary_folder / folder.name / get_state_file(collectives.rank()))
                collectives.barrier()
                if collectives.is_main():
                    self.complete(temporary_folder, temporary_folder / folder.name)
            if collectives.is_main():
                checkpoints.prune_checkpoints(folder.parent, keep=self.keep)
        if (stop := signals.get_stop_reason()) is not None:
            raise stop

    @contextmanager
    def open_folder(self, folder: Path) -> Iterator[Path]:
        """Within the block, a temporary folder for all processes to write into. After the block, it is renamed to `folder`."""
        if collectives.is_main():
            with files.write_folder(folder) as temporary_folder, disk.require_space(self.estimate_size(), folder.parent, what=folder.name):
                yield collectives.broadcast(temporary_folder)
        else:
            yield collectives.broadcast(folder)
        collectives.barrier()

    def complete(self, temporary_folder: Path, folder: Path) -> None:
        """Move the files of the processes one folder up, and write the manifest."""
        for path in folder.iterdir():
            path.rename(temporary_folder / path.name)
        folder.rmdir()
        (temporary_folder / "training_args.bin").unlink()  # a pickle that nothing reads
        write_manifest(temporary_folder, {**self.made_of, "kind": "checkpoint", "step": self.trainer.state.global_step})

    def estimate_size(self) -> int:
        """Estimate the bytes of a checkpoint: the weights that are saved, and the optimizer's state."""
        model, optimizer = self.trainer.model, self.trainer.optimizer
        weights = [weight for weight in model.parameters() if weight.requires_grad or not isinstance(model, PeftModel)]
        state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, torch.Tensor)]
        return sum(map(sharding.get_full_size, weights + state))

    # The state that transformers does not save

    def carry(self) -> dict[str, Any]:
        """The state of this process: sums and counts since the start, recent losses, and trained weights that no model file holds."""
        return {
            "trainer": self.trainer.carry(),
            "window": list(self.window),
            "total": list(self.total),
            "seconds": self.seconds + time.time() - self.started,
            "monitor": {"losses": list(self.monitor.losses), "above": self.monitor.above},
            "beside": [weight.detach().cpu() for weight in self.list_weights_beside()],
            "training": self.trainer.model.training,
        }

    def take_up(self) -> None:
        """Restore the state from the checkpoint."""
        if self.resumed is None:
            return
        state = self.load_state(self.resumed)
        self.trainer.take_up(state["trainer"])
        self.window, self.total, self.seconds = state["window"], state["total"], state["seconds"]
        self.monitor.losses.extend(state["monitor"]["losses"])
        self.monitor.above = state["monitor"]["above"]
        with torch.no_grad():
            for weight, value in zip(self.list_weights_beside(), state["beside"], strict=True):
                weight.copy_(value)
        self.trainer.model.train(state["training"])

    def load_state(self, checkpoint: Path) -> dict[str, Any]:
        """The saved state of this process. If the number of processes has changed, the states are merged and the mean losses are used."""
        count = sum((checkpoint / get_state_file(number)).is_file() for number in range(len(list(checkpoint.iterdir()))))
        states = [torch.load(checkpoint / get_state_file(number), map_location="cpu", weights_only=True) for number in range(count)]
        if len(states) == collectives.world_size():
            return states[collectives.rank()]
        log.warning(
            "Going on in %d processes from a checkpoint of %d: the rows and their order are the same, the last bits and what dropout draws "
            "are not", collectives.world_size(), len(states)
        )  # fmt: skip
        means = {name: [sum(state[name][0] for state in states) / len(states), states[0][name][1]] for name in ("window", "total")}
        return {**states[0], **means, "trainer": self.trainer.merge_carried([state["trainer"] for state in states])}

    def list_weights_beside(self) -> list[torch.nn.Parameter]:
        """The trained weights that the files of the model do not hold. They are not part of the adapter, or of the model."""
        model = self.trainer.model
        file_ids = {id(weight) for name, weight in model.named_parameters() if not isinstance(model, PeftModel) or "lora_" in name}
        return [weight for group in self.trainer.optimizer.param_groups for weight in group["params"] if id(weight) not in file_ids]

    # Resuming

    def begin(self, checkpoint: Any) -> None:
        """Set the checkpoint that training resumes from, if there is one."""
        self.resumed = Path(checkpoint) if checkpoint else None

    def is_done(self) -> bool:
        """Whether all steps are done. If so, ends the loop: transformers would do one more step in a run resumed from its last step."""
        state = self.trainer.state
        if state.global_step >= state.max_steps:
            self.trainer.control.should_training_stop = True
            return True
        return False

    # The losses of the steps

    def watch_step(self, loss: torch.Tensor, inputs: Any) -> torch.Tensor:
        """Add the loss of a batch to its step. Raises NotFinite if the loss is NaN or infinite."""
        self.batches.append(inputs)
        self.step_loss += (value := float(loss))
        if not math.isfinite(value):
            divergence.raise_not_finite(self.trainer, f"the loss is {value}", self.batches[-1:])
        return loss

    def correct_log(self, logs: dict[str, float]) -> None:
        """Replace transformers' losses and times, which start with this process, by those of the whole run."""
        if "loss" in logs:
            total, count = self.window
            logs["loss"] = collectives.all_mean(total / max(1, count))
            self.window = [0.0, 0]
        if "train_runtime" in logs:
            state = self.trainer.state
            own_steps = max(1, state.global_step - self.resumed_step)
            samples = logs["train_samples_per_second"] * logs["train_runtime"] * state.global_step / own_steps
            runtime = logs["train_runtime"] + self.seconds
            logs["train_runtime"] = round(runtime, 4)
            logs["train_samples_per_second"] = round(samples / runtime, 3)
            logs["train_steps_per_second"] = round(state.global_step / runtime, 3)
            logs["train_loss"] = collectives.all_mean(self.total[0] / max(1, self.total[1]))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.resumed_step = state.global_step
        self.take_up()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.batches, self.step_loss = [], 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for sums in (self.window, self.total):
            sums[0] += self.step_loss
            sums[1] += 1
        self.monitor.add(state.global_step, collectives.all_mean(self.step_loss))
        if signals.get_stop_reason() is not None:
            control.should_save = True

    # NaN and infinity

    def watch_gradient(self) -> None:
        """Make accelerate's gradient clipping raise NotFinite if the norm of the gradient is NaN or infinite."""
        accelerator = self.trainer.accelerator
        clip = accelerator.clip_grad_norm_

        def clip_and_look(*args: Any, **kwargs: Any) -> Any:
            norm = clip(*args, **kwargs)
            # fp16 finds its scale by steps with an overflow. It skips these steps.
            if norm is not None and accelerator.scaler is None and not math.isfinite(value := float(norm)):
                divergence.raise_not_finite(self.trainer, f"the gradient's norm is {value}", self.batches)
            return norm

        accelerator.clip_grad_norm_ = clip_and_look

    def refuse_bad_weights(self) -> None:
        """Raise NotFinite if a weight is NaN or infinite, so that it is not saved."""
        if names := divergence.find_bad_weights(self.trainer.model):
            self.trainer.state.global_step -= 1  # the last step made these weights
            problem = f"{len(names)} weights hold NaN or infinity after it, {names[0]} among them"
            divergence.raise_not_finite(self.trainer, problem, self.batches)
