"""Check the settings of runs with several processes."""

import importlib.util
import os
from collections.abc import Iterator

from lexalign.config import hardware
from lexalign.config.schema import Experiment

ALONE = {"processes": (1,), "nodes": (1,), "node": (None,), "rendezvous": (None,), "patience": ()}
"""Settings of several processes, each with the values that also fit a single process."""
BY_HAND = ("TORCHELASTIC_RUN_ID", "LOCAL_RANK")
"""Environment variables of a process that another launcher started."""


def check_started_otherwise(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    if any(name in os.environ for name in BY_HAND):
        yield (
            "this process was started by torchrun or accelerate launch, so each of its processes would run the whole experiment; "
            "type python run.py … hardware=ddp, which starts the processes itself"
        )


def check_processes(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    setup, train = experiment.hardware, experiment.train
    if setup.strategy in ("single", "auto"):
        for name, values in ALONE.items():
            if f"hardware.{name}" in typed and getattr(setup, name) not in values:
                yield f"hardware.{name}: is for several processes; type hardware=ddp, or leave it out"
    if setup.strategy != "deepspeed" and "hardware.zero" in typed:
        yield "hardware.zero: is DeepSpeed's; type hardware=deepspeed, or leave it out"
    if setup.strategy in ("single", "auto"):
        return
    strategy, devices = setup.strategy, hardware.count_cuda_devices()
    is_on_cuda = hardware.resolve_device(setup.device) == "cuda"
    if experiment.method is None:
        yield f"hardware={strategy}: stage={experiment.stage.name} runs in one process; type hardware=auto"
        return
    if strategy != "ddp" and not is_on_cuda:
        yield f"hardware={strategy}: shards over GPUs, and there is no CUDA device here; type hardware=ddp hardware.processes=2"
        return
    if strategy == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        yield "hardware=deepspeed: is not installed; type pip install 'lexalign[deepspeed]', or hardware=fsdp"
    if hardware.resolve_device(setup.device) == "mps":
        yield "hardware=ddp: Apple's GPU is one; type hardware=auto"
        return
    if setup.processes == "auto" and not is_on_cuda:
        yield "hardware.processes=auto: means one for each GPU, and there is none here; type hardware.processes=2"
        return
    if setup.processes != "auto" and is_on_cuda and setup.processes > devices:
        yield f"hardware.processes={setup.processes}: there are {devices} CUDA devices here; type hardware.processes={devices}, or auto"
    world = hardware.get_world_size(setup)
    if train is not None and train.batch_size % world:
        batch_size = -(-train.batch_size // world) * world
        yield (
            f"train.batch_size={train.batch_size}: are the rows of all {world} processes together, and {world} does not divide it; "
            f"type train.batch_size={batch_size}"
        )
    if train is not None and train.max_tokens is not None:
        yield (
            f"train.max_tokens: batches of a varying number of rows cannot be shared out evenly (hardware={strategy}); "
            "type train.max_tokens=null train.group_by_length=true"
        )


def check_nodes(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    setup = experiment.hardware
    if setup.strategy in ("single", "auto") or experiment.method is None:
        return
    if setup.nodes == 1:
        for name in ("node", "rendezvous", "patience"):
            if f"hardware.{name}" in typed:
                yield f"hardware.{name}: is for several nodes; type hardware.nodes=2, or leave it out"
        return
    if setup.rendezvous == hardware.SLURM:
        if "hardware.node" in typed:
            yield "hardware.node: with hardware.rendezvous=slurm, Slurm says which node this is; leave one of them out"
        return
    number = hardware.get_node_rank(setup)
    if number is None:
        yield f"hardware.nodes={setup.nodes}: which of them is this? Type hardware.node=0 here and hardware.node=1 … on the others"
    elif number >= setup.nodes:
        yield f"hardware.node={number}: the nodes are counted from 0 to {setup.nodes - 1}; type hardware.node={setup.nodes - 1} or less"
    host, _, port = (setup.rendezvous or "").rpartition(":")
    if not host or not port.isdigit():
        yield (
            f"hardware.rendezvous={setup.rendezvous}: the nodes meet at node 0; type an address of it that all can reach and a free port, "
            "as in hardware.rendezvous=node0:29500; in a job of Slurm's, hardware.rendezvous=slurm"
        )
    if "output_dir" not in typed:
        yield "output_dir: all nodes write to one folder on a disk that they share; type output_dir=<folder>, the same on each"


def check_sharding(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Refuse settings that need the whole weights in one process."""
    setup, adapter, train = experiment.hardware, experiment.adapter, experiment.train
    if setup.strategy == "fsdp" and adapter is not None and adapter.bits == 8:
        yield "adapter.bits=8: FSDP2 would part int8 weights from their scales; type adapter.bits=4, or hardware=deepspeed"
    if setup.strategy == "fsdp" and train is not None and train.optimizer == "adamw_8bit":
        yield (
            "train.optimizer=adamw_8bit: bitsandbytes does not know the parts that FSDP2 makes; type train.optimizer=adamw_torch, or "
            "hardware=deepspeed"
        )
    if hardware.is_sharded(setup) and experiment.evaluate.tasks:
        yield (
            f"evaluate.tasks: lm-eval runs in one process, and hardware={setup.strategy} gives none the whole model; type it afterwards: "
            "python run.py stage=evaluate model.path=<run> 'evaluate.tasks=[…]'"
        )


RULES = (check_started_otherwise, check_processes, check_nodes, check_sharding)
