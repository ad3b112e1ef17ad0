"""One of the processes of a run: `python -m lexalign.runs.worker <job file>`, started by torchrun's agent."""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

log = logging.getLogger("lexalign.runs.worker")  # this module runs as __main__
FOLLOWED = 0.5
"""Seconds between two checks that the parent process still runs."""
AFTER_THE_CAUSE = 3.0
"""Seconds before an error of a collective operation is reported. In most cases another process failed first, and its error is the cause."""


def follow_agent(parent_id: int) -> None:
    """End this process when its parent process ends. After that, other runs may use the folder, so nothing may write into it."""
    while os.getppid() == parent_id:
        time.sleep(FOLLOWED)
    os._exit(1)


def main(job: Path) -> int:
    """Run the job and return the exit code. The outcome is written into the folder of the job file."""
    for stop_signal in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(stop_signal, signal.SIG_IGN)  # the parent process decides, and writes a file
    threading.Thread(target=follow_agent, args=(os.getppid(),), daemon=True).start()
    job_facts = json.loads(job.read_text(encoding="utf-8"))
    sys.path[:] = job_facts["python_path"]
    number, out_dir = int(os.environ["RANK"]), Path(job_facts["out_dir"])
    # This comes before torch and accelerate set their own numbers.
    os.environ["OMP_NUM_THREADS"] = str(job_facts["threads"])
    from lexalign.runs import torchrun

    if number:
        silence_output(out_dir / torchrun.get_log_file(number))

    from lexalign.artifacts.terminal import outlive_terminal
    from lexalign.config.secrets import guard_streams
    from lexalign.errors import LexAlignError, Stopped

    outlive_terminal()
    guard_streams()
    try:
        result = run_worker(job_facts, job.parent, out_dir)
    except BaseException as error:
        if not isinstance(error, LexAlignError) and is_collective(error):
            time.sleep(AFTER_THE_CAUSE)
        torchrun.write_outcome(job.parent, number, error=error)
        return 0 if isinstance(error, Stopped) else 1
    torchrun.write_outcome(job.parent, number, result=result)
    return 0


def run_worker(job_facts: dict[str, Any], folder: Path, out_dir: Path) -> Any:
    """Run the stage in this process of the group."""
    from torch import distributed

    from lexalign.config import hardware
    from lexalign.config.compose import Composition
    from lexalign.config.context import RunContext
    from lexalign.distributed import collectives
    from lexalign.runs import execute, stop_together, torchrun
    from lexalign.runs.run_log import log_to_folder
    from lexalign.training import signals

    experiment = parse_job(job_facts["experiment"])
    device, local = hardware.resolve_device(experiment.hardware.device), int(os.environ["LOCAL_RANK"])
    collectives.set_device(local, device)
    signals.began = job_facts["began"]
    log_name = torchrun.get_log_file(int(os.environ["RANK"]))
    with log_to_folder(out_dir, verbose=experiment.verbose, name=log_name), stop_together.handle_stop_file(folder / torchrun.ASKED):
        distributed.init_process_group(backend=collectives.get_backend(device), timeout=collectives.LONG)
        try:
            world_size = hardware.get_world_size(experiment.hardware)
            assert collectives.world_size() == world_size, f"{collectives.world_size()} processes came together instead of {world_size}"
            # Only node 0 finds the checkpoint and the parent for the run.
            experiment = dataclasses.replace(parse_job(collectives.broadcast(job_facts["experiment"])), hardware=experiment.hardware)
            composed = Composition(experiment=experiment, tree=job_facts["tree"], typed=tuple(job_facts["typed"]))
            context = RunContext(out_dir=out_dir, name=job_facts["name"], group=job_facts["group"])
            result = execute.run_stage(composed, experiment, context, speaks=collectives.is_main())
            collectives.barrier()
            return result
        except BaseException as error:
            log.debug("Process %d ended:", collectives.rank(), exc_info=error)
            raise
        finally:
            if sys.exc_info()[0] is None:
                with contextlib.suppress(Exception):
                    distributed.destroy_process_group()


def parse_job(tree: dict[str, Any]) -> Any:
    """The experiment of a job file."""
    from lexalign.config import schema, targets
    from lexalign.config.parsing import parse

    problems: list[str] = []
    settings_class = targets.get_settings_class(tree, [targets.OWN_PACKAGE, *tree["extensions"]], problems)
    experiment = parse(schema.Experiment, tree, "", problems, settings_class)
    assert experiment is not None and not problems, problems
    return experiment


def silence_output(path: Path) -> None:
    """Write the output of this process and its libraries to a file."""
    with path.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def is_collective(error: BaseException) -> bool:
    """Whether an error may be the effect of another process's end."""
    from torch import distributed

    message = str(error).lower()
    return isinstance(error, distributed.DistError) or any(word in message for word in ("gloo", "nccl", "peer", "connection"))


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # else threads of the process group would wait for processes that have ended
