"""Starts the processes of a run with torchrun's API, and reads how they ended."""

import dataclasses
import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lexalign import errors
from lexalign.artifacts import files
from lexalign.artifacts.result import Result
from lexalign.config import hardware
from lexalign.config.compose import Composition
from lexalign.config.context import RunContext
from lexalign.config.parsing import to_plain
from lexalign.config.schema import Experiment, Hardware
from lexalign.errors import LexAlignError, RendezvousFailed, Stopped, WorkerFailed, first_line
from lexalign.training import signals

log = logging.getLogger(__name__)
JOB, ASKED = "job.json", "asked.json"
GRACE = 5
"""Seconds that the other processes have to end after one has failed. They wait in a collective operation and have nothing to save."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one process ended. The process writes it itself."""

    number: int
    at: float
    result: dict[str, Any] | None = None
    error: str | None = None
    """The error's message."""
    kind: str = ""
    """The error's class."""
    exit_code: int = 1
    status: str = "failed"


def uses_several_processes(experiment: Experiment) -> bool:
    """Whether the run uses several processes. A dry run, or a stage without training, does not."""
    return hardware.get_world_size(experiment.hardware) > 1 and experiment.method is not None and not experiment.dry_run


def run_together(composed: Composition, experiment: Experiment, context: RunContext) -> Result:
    """Run an experiment's stage in all its processes and return the result of the first one.

    Raises the error that a process wrote, WorkerFailed if a process died, RendezvousFailed if a node did not connect.
    """
    from lexalign.runs import pretokenize

    out_dir = context.out_dir
    pretokenize.pretokenize(experiment, out_dir)
    local, nodes = hardware.count_local_processes(experiment.hardware), experiment.hardware.nodes
    folder = out_dir / f"{files.ASIDE}ranks-{uuid.uuid4().hex}"
    folder.mkdir()
    files.write_json(
        folder / JOB,
        {
            "experiment": to_plain(experiment),
            "tree": composed.tree,
            "typed": composed.typed,
            "name": context.name,
            "group": context.group,
            "out_dir": str(out_dir),
            "began": signals.began or psutil.Process().create_time(),
            "python_path": sys.path,
            "threads": experiment.hardware.threads or max(1, hardware.count_cores() // local),
        },
    )
    log.info("Starting %d processes%s (%s)", local, f" on each of {nodes} nodes" if nodes > 1 else "", experiment.hardware.strategy)
    try:
        with make_stop_requester(folder / ASKED):
            launch_workers(experiment.hardware, folder, out_dir.name)
        return read_outcome(folder, local)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def make_stop_requester(path: Path) -> Iterator[None]:
    """Within the block, a signal to this process is written to a file. The processes read it and stop after the same step."""
    with signals.defer_signals(None):
        watcher = signals.watcher
        if watcher is None:
            yield
            return
        watcher.on_ask = lambda stop: files.write_json(path, {"said": str(stop), "exit_code": stop.exit_code, "status": stop.status})
        try:
            yield
        finally:
            watcher.on_ask = None


def launch_workers(chosen: Hardware, folder: Path, name: str) -> None:
    """Start the processes of this node and wait for their end. Each process writes its outcome into `folder`."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    chosen = dataclasses.replace(chosen, rendezvous=hardware.resolve_rendezvous(chosen))
    require_free_port(chosen)
    node = hardware.get_node_rank(chosen)
    rendezvous: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1"}
    if chosen.nodes > 1:
        rendezvous = {
            "rdzv_backend": "static",
            "rdzv_endpoint": chosen.rendezvous,
            "rdzv_configs": {"rank": node, "timeout": chosen.patience},
        }
    if "shutdown_timeout" in {field.name for field in dataclasses.fields(LaunchConfig)}:
        rendezvous["shutdown_timeout"] = GRACE
    else:  # torch 2.11
        log.info("Should a process fail, this torch gives the others 30 s to end, not %d", GRACE)
    config = LaunchConfig(
        min_nodes=chosen.nodes,
        max_nodes=chosen.nodes,
        nproc_per_node=hardware.count_local_processes(chosen),
        run_id=name,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        signals_to_handle="SIGQUIT",  # signals.watcher handles the others
        **rendezvous,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "lexalign.runs.worker", str(folder / JOB))
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode >= 0:  # a killed process wrote no outcome, and the errors of the others are only its effects
            raise_reported(folder)
        raise WorkerFailed(describe_death(number, hardware.get_world_size(chosen), failure.exitcode)) from error
    except (RendezvousError, TimeoutError, DistError) as error:
        if chosen.nodes == 1:
            raise
        raise RendezvousFailed(
            f"hardware.rendezvous={chosen.rendezvous}: not all of the {chosen.nodes} nodes came within {chosen.patience} s "
            f"(this is node {node}; {first_line(error)}). Type the same command on each node, with hardware.node=0 … {chosen.nodes - 1} "
            "and an address of node 0 that all can reach, or raise hardware.patience"
        ) from error


def describe_death(number: int, world: int, code: int) -> str:
    """The error message for a process that wrote no outcome."""
    ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    memory = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
    return (
        f"process {number} of {world} {ending}{memory}. The others were stopped; the last checkpoint is whole, "
        "and the same command with this output_dir goes on from it"
    )


def read_outcome(folder: Path, local: int) -> Result:
    """The result of this node's first process. Raises the error of a process that failed."""
    outcomes = raise_reported(folder)
    assert len(outcomes) == local, f"{len(outcomes)} of {local} processes say how they ended"
    (result,) = (outcome.result for outcome in outcomes if outcome.result is not None)
    return Result(**result)


def raise_reported(folder: Path) -> list[Outcome]:
    """The outcomes written so far. Raises the first error of a process, a user's error before others."""
    outcomes = [Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("outcome-*.json")]
    failures = sorted(
        (outcome for outcome in outcomes if outcome.error is not None), key=lambda outcome: (not is_user_error(outcome.kind), outcome.at)
    )
    if not failures:
        return outcomes
    outcome = failures[0]
    if outcome.kind == "Stopped":
        raise Stopped(outcome.error or "", exit_code=outcome.exit_code, status=outcome.status)  # type: ignore[arg-type]
    if is_user_error(outcome.kind):
        raise getattr(errors, outcome.kind)(outcome.error)
    raise WorkerFailed(f"process {outcome.number}: {outcome.error} (its traceback is in {get_log_file(outcome.number)})")


def get_log_file(number: int) -> str:
    """The name of a process's log in the run's folder. The first process writes `run.log`."""
    return f"run.rank{number}.log" if number else "run.log"


def is_user_error(kind: str) -> bool:
    """Whether an error class of this name is one that the user can correct, or Stopped."""
    cls = getattr(errors, kind, None)
    return isinstance(cls, type) and issubclass(cls, (LexAlignError, Stopped))


def write_outcome(folder: Path, number: int, *, result: Result | None = None, error: BaseException | None = None) -> None:
    """Write how this process ended."""
    is_first_of_node = os.environ["LOCAL_RANK"] == "0"  # it reports the result of its node
    outcome = Outcome(number=number, at=time.time(), result=dataclasses.asdict(result) if result and is_first_of_node else None)
    if error is not None:
        kind = type(error).__name__
        message = str(error) if is_user_error(kind) else f"{kind}: {error}"
        code, status = getattr(error, "exit_code", 1), getattr(error, "status", "failed")
        outcome = dataclasses.replace(outcome, error=message, kind=kind, exit_code=code, status=status)
    files.write_json(folder / f"outcome-{number}.json", dataclasses.asdict(outcome))


def require_free_port(chosen: Hardware) -> None:
    """On node 0, raise RendezvousFailed if another process uses the port."""
    if chosen.nodes == 1 or hardware.get_node_rank(chosen) != 0:
        return
    assert chosen.rendezvous is not None
    host, _, port = chosen.rendezvous.rpartition(":")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", int(port)))
        except OSError as error:
            raise RendezvousFailed(
                f"hardware.rendezvous={chosen.rendezvous}: port {port} is in use on this node ({os.strerror(error.errno or 0)}); "
                f"type another, as in hardware.rendezvous={host}:{int(port) + 1}, on every node"
            ) from error
