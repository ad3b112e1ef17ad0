"""Any trainer of transformers, with checkpoints that are whole or not there and hold all that the next step reads."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
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
# Of transformers' and TRL's trainers: what they keep over steps, and begin anew on a resume. Where a trainer has it.
KEPT = ("_total_train_tokens", "_total_loss_scalar", "_globalstep_last_logged", "_step", "_buffered_inputs")


def get_state_file(process: int) -> str:
    """The file of what a process carried."""
    return CARRIED if process == 0 else f"carried-{process}.pt"


@cache
def make_durable(trainer: type) -> type:
    """A trainer class with this module's saving."""
    return type(trainer.__name__, (CheckpointingTrainer, trainer), {"__module__": trainer.__module__, "__doc__": trainer.__doc__})


class CheckpointingTrainer:
    """Mixin before a trainer; call `watch_over` before `train`."""

    args: Any
    model: Any
    state: Any
    optimizer: Any
    accelerator: Any

    def watch_over(self, train: Train, made_of: dict[str, Any]) -> None:
        """Save as `train` says, and with each checkpoint what the run is made of."""
        self.made_of = made_of
        self.keep = train.keep_checkpoints
        self.course = divergence.LossMonitor(train)
        self.aside: Path | None = None
        self.batches: list[Any] = []
        self.step_loss = 0.0
        self.seconds = 0.0
        self.began = time.time()
        self.resumed: Path | None = None
        self.add_callback(CheckpointingCallback(self))  # type: ignore[attr-defined]

    # Saving

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.aside) if self.aside else super()._get_output_dir(trial)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers' own, into a folder that gets its name when it is whole; older ones go after that. Raises Stopped where asked."""
        folder = Path(self.args.output_dir) / f"{checkpoints.PREFIX}{self.state.global_step}"
        if not collectives.broadcast(folder.is_dir()):  # the end of an epoch may be the end of a step that was saved
            self.refuse_bad_weights()
            with self.folder_aside(folder) as aside:
                self.aside = aside
                try:
                    super()._save_checkpoint(model, trial)  # type: ignore[misc]
                finally:
                    self.aside = None
                torch.save(self.carried(), aside / folder.name / get_state_file(collectives.rank()))
                collectives.barrier()
                if collectives.is_main():
                    self.complete(aside, aside / folder.name)
            if collectives.is_main():
                checkpoints.prune_checkpoints(folder.parent, keep=self.keep)
        if (stop := signals.get_stop_reason()) is not None:
            raise stop

    @contextmanager
    def folder_aside(self, folder: Path) -> Iterator[Path]:
        """Within the block, the folder that all processes write into; after it, it has its name."""
        if collectives.is_main():
            with files.write_folder(folder) as aside, disk.require_space(self.size(), folder.parent, what=folder.name):
                yield collectives.broadcast(aside)
        else:
            yield collectives.broadcast(folder)
        collectives.barrier()

    def complete(self, aside: Path, written: Path) -> None:
        """What the processes wrote, one folder up; the manifest."""
        for path in written.iterdir():
            path.rename(aside / path.name)
        written.rmdir()
        (aside / "training_args.bin").unlink()  # a pickle that nothing reads
        write_manifest(aside, {**self.made_of, "kind": "checkpoint", "step": self.state.global_step})

    def size(self) -> int:
        """Bytes of a checkpoint, nearly: what is trained, and the optimizer's state of it."""
        saved = [weight for weight in self.model.parameters() if weight.requires_grad or not isinstance(self.model, PeftModel)]
        state = [value for values in self.optimizer.state.values() for value in values.values() if isinstance(value, torch.Tensor)]
        return sum(map(sharding.get_full_size, saved + state))

    # What a step depends on beside what transformers saves

    def carried(self) -> dict[str, Any]:
        """Sums and counts since the start, the course of the loss, and weights that no file of the model's holds."""
        return {
            "kept": {name: getattr(self, name) for name in KEPT if hasattr(self, name)},
            "metrics": {mode: dict(values) for mode, values in self._metrics.items()},  # type: ignore[attr-defined]
            "loss": self._tr_loss.item(),  # type: ignore[attr-defined]
            "seconds": self.seconds + time.time() - self.began,
            "course": {"losses": list(self.course.losses), "above": self.course.above},
            "beside": [weight.detach().cpu() for weight in self.beside()],
            "training": self.model.training,
        }

    def carry_on(self) -> None:
        """Take up what the checkpoint carried."""
        if self.resumed is None:
            return
        state = self.state_carried(self.resumed)
        for name, value in state["kept"].items():
            setattr(self, name, value)
        for mode, values in state["metrics"].items():
            self._metrics[mode].clear()  # type: ignore[attr-defined]
            self._metrics[mode].update(values)  # type: ignore[attr-defined]
        self._tr_loss.fill_(state["loss"])  # type: ignore[attr-defined]
        self._initial_global_step = 0  # the mean loss is that of all steps
        self.seconds = state["seconds"]
        self.course.losses.extend(state["course"]["losses"])
        self.course.above = state["course"]["above"]
        with torch.no_grad():
            for weight, value in zip(self.beside(), state["beside"], strict=True):
                weight.copy_(value)
        self.model.train(state["training"])

    def state_carried(self, checkpoint: Path) -> dict[str, Any]:
        """What this process carried; the first one's, with the mean of their losses, where there were fewer or more of them."""
        count = sum((checkpoint / get_state_file(number)).is_file() for number in range(len(list(checkpoint.iterdir()))))
        states = [torch.load(checkpoint / get_state_file(number), map_location="cpu", weights_only=True) for number in range(count)]
        if len(states) == collectives.world_size():
            return states[collectives.rank()]
        log.warning(
            "Going on in %d processes from a checkpoint of %d: the rows and their order are the same, the last bits and what dropout draws "
            "are not", collectives.world_size(), len(states)
        )  # fmt: skip
        kept = {name: value for name, value in states[0]["kept"].items() if name != "_buffered_inputs"}  # another share of the rows
        kept |= {"_total_loss_scalar": sum(state["kept"]["_total_loss_scalar"] for state in states) / len(states)}
        return {**states[0], "kept": kept, "loss": sum(state["loss"] for state in states) / len(states)}

    def beside(self) -> list[torch.nn.Parameter]:
        """Weights that are trained and that the model's own files do not hold: beside the adapter, or beside the model."""
        adapter = isinstance(self.model, PeftModel)
        held = {id(weight) for name, weight in self.model.named_parameters() if not adapter or "lora_" in name}
        return [weight for group in self.optimizer.param_groups for weight in group["params"] if id(weight) not in held]

    # Going on

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        self.resumed = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, the last thing before DeepSpeed takes the model."""
        sharding.enter_zero3(self.args, yes=True)
        return super().create_optimizer(*args, **kwargs)  # type: ignore[misc]

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """transformers' own, and the weights keep their type: PEFT loads an adapter in float32."""
        types = {name: weight.dtype for name, weight in self.model.named_parameters()}
        super()._load_from_checkpoint(*args, **kwargs)  # type: ignore[misc]
        for name, weight in self.model.named_parameters():
            if weight.dtype != types[name]:
                weight.data = weight.data.to(types[name])

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """transformers' own, unless every step is done: it would make one more."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        """transformers' own, with the time of the run's earlier parts."""
        return super()._finalize_training(trial, num_train_samples, start_time - self.seconds)  # type: ignore[misc]

    # Numbers that went wrong

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.batches.append(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        self.step_loss += (value := float(loss))
        if not math.isfinite(value):
            divergence.raise_not_finite(self, f"the loss is {value}", self.batches[-1:])
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[misc]
        # fp16 finds its scale by steps whose gradient overflows, and leaves them out.
        if norm is not None and self.accelerator.scaler is None and not math.isfinite(value := float(norm)):
            divergence.raise_not_finite(self, f"the gradient's norm is {value}", self.batches)
        return norm

    def refuse_bad_weights(self) -> None:
        """Raise NotFinite rather than save NaN."""
        if names := divergence.find_bad_weights(self.model):
            self.state.global_step -= 1  # they were made by the step just done
            divergence.raise_not_finite(self, f"{len(names)} weights hold NaN or infinity after it, {names[0]} among them", self.batches)


class CheckpointingCallback(TrainerCallback):
    """What the training loop tells a Durable trainer."""

    def __init__(self, trainer: CheckpointingTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.carry_on()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.batches, self.trainer.step_loss = [], 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.course.add(state.global_step, collectives.all_mean(self.trainer.step_loss))
        if signals.get_stop_reason() is not None:
            control.should_save = True
