"""The device, and how several processes share a run."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lexalign.config.parsing import TypedOnly
from lexalign.config.schema.ranges import Count, NotNegative


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The device the run uses."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    """auto = CUDA where there is some, then Apple's GPU, then the CPU."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """Arithmetic of the training step; auto = bf16 on an accelerator that has it, fp32 elsewhere."""
    threads: Count | None
    """CPU threads of each process; null = as many as there are cores, shared out."""
    strategy: Literal["auto", "single", "ddp", "fsdp", "deepspeed"]
    """How several processes share a run. auto = as the GPUs and the step's memory ask for; ddp = each has the model and takes its share of
    every batch; fsdp, deepspeed = the model is shared out too."""
    zero: Literal[2, 3]
    """What DeepSpeed shares out: 2 = gradients and the optimizer's state, 3 = the weights too."""
    processes: Count | Literal["auto"]
    """Processes on each node; auto = one for each GPU. `train.batch_size` counts the rows of all of them together."""
    nodes: Count
    """Machines; the same command is typed on each."""
    node: Annotated[int, NotNegative] | None
    """Which of the nodes this is, from 0; null = what Slurm says."""
    rendezvous: Annotated[str | None, TypedOnly("it names an address that the processes connect to")]
    """host:port of node 0, where the nodes meet; slurm = in a job of Slurm's, as it says."""
    patience: Count
    """Seconds that a node waits for the others."""
