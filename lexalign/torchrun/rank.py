"""One of the processes of a run: `python -m lexalign.torchrun.rank <job file>`, started by torchrun's agent."""

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

log = logging.getLogger("lexalign.torchrun.rank")  # this module runs as __main__
FOLLOWED = 0.5
"""Seconds between two looks at whether the process that started this one is still there."""
AFTER_THE_CAUSE = 3.0
"""Seconds before an error of a collective operation is told: mostly another process failed first, and its error is the one to tell."""


def follow(starter: int) -> None:
    """End with the process that started this one, however it ends: nothing may write into a folder that is free to others."""
    while os.getppid() == starter:
        time.sleep(FOLLOWED)
    os._exit(1)


def main(job: Path) -> int:
    """Run the job; the exit code. How it ended is written beside the job file."""
    for asking in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(asking, signal.SIG_IGN)  # whoever started this one decides, and says so in a file
    threading.Thread(target=follow, args=(os.getppid(),), daemon=True).start()
    told = json.loads(job.read_text(encoding="utf-8"))
    sys.path[:] = told["python_path"]
    number, out_dir = int(os.environ["RANK"]), Path(told["out_dir"])
    # Before torch and accelerate choose a number of their own.
    os.environ["OMP_NUM_THREADS"] = str(told["threads"])
    from lexalign.torchrun import start

    if number:
        be_quiet(out_dir / start.log_of(number))

    from lexalign.errors import LexAlignError, Stopped

    try:
        result = run(told, job.parent, out_dir)
    except BaseException as error:
        if not isinstance(error, LexAlignError) and is_collective(error):
            time.sleep(AFTER_THE_CAUSE)
        start.report(job.parent, number, error=error)
        return 0 if isinstance(error, Stopped) else 1
    start.report(job.parent, number, result=result)
    return 0


def run(told: dict[str, Any], folder: Path, out_dir: Path) -> Any:
    """The stage, in a process that knows of the others."""
    from torch import distributed

    from lexalign import hardware, staging
    from lexalign.checkpoints import signals
    from lexalign.compose import Composed
    from lexalign.logs import logged
    from lexalign.ranks import group
    from lexalign.torchrun import start, watcher

    experiment = parsed(told["experiment"])
    device, local = hardware.resolve_device(experiment.hardware.device), int(os.environ["LOCAL_RANK"])
    group.use_own_device(local, device)
    signals.began = told["began"]
    log_name = start.log_of(int(os.environ["RANK"]))
    with logged(out_dir, verbose=experiment.verbose, name=log_name), watcher.heeded(folder / start.ASKED):
        distributed.init_process_group(backend=group.backend(device), timeout=group.LONG)
        try:
            wanted = hardware.world_size(experiment.hardware)
            assert group.size() == wanted, f"{group.size()} processes came together instead of {wanted}"
            # Node 0 alone looks for the checkpoint and the parent that the run goes on from.
            experiment = dataclasses.replace(parsed(group.told(told["experiment"])), hardware=experiment.hardware)
            composed = Composed(experiment=experiment, tree=told["tree"], typed=tuple(told["typed"]))
            result = staging.staged(composed, experiment, out_dir, name=told["name"], group=told["group"], speaks=group.first())
            group.wait()
            return result
        except BaseException as error:
            log.debug("Process %d ended:", group.number(), exc_info=error)
            raise
        finally:
            if sys.exc_info()[0] is None:
                with contextlib.suppress(Exception):
                    distributed.destroy_process_group()


def parsed(tree: dict[str, Any]) -> Any:
    """The experiment of a job file."""
    from lexalign import schema, targets
    from lexalign.parse import parse

    problems: list[str] = []
    knobs = targets.knobs(tree, [targets.OWN_PACKAGE, *tree["extensions"]], problems)
    experiment = parse(schema.Experiment, tree, "", problems, knobs)
    assert experiment is not None and not problems, problems
    return experiment


def be_quiet(path: Path) -> None:
    """What this process and its libraries print goes to a file of its own."""
    with path.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def is_collective(error: BaseException) -> bool:
    """Whether an error may only be the echo of another process's end."""
    from torch import distributed

    said = str(error).lower()
    return isinstance(error, distributed.DistError) or any(word in said for word in ("gloo", "nccl", "peer", "connection"))


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a group whose other half is gone would wait for it
