"""Run by a test with the stand-in driver: starts a job of a sweep, and prints which device its process finds.

Arguments: the folder to write to, the device that the sweep planned, how the process is started (as_planned or forked).
"""

import sys
from dataclasses import replace
from pathlib import Path

from lexalign.config import hardware
from lexalign.config.compose import compose
from lexalign.config.context import RunContext
from lexalign.sweeps import job, processes


def report_device(task: job.Task) -> None:
    """In the job's process, in place of the run: what the run would find."""
    hardware.is_torch_cpu_build = lambda: False
    task = replace(task, device=task.context.name)
    job.execute.execute = lambda composed, context: print("runs on", hardware.resolve_device(composed.experiment.hardware.device))
    job.run_task(task)


def main() -> None:
    folder, device, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    hardware.is_torch_cpu_build = lambda: False
    task = job.Task(
        composed=compose(["tracking=none", f"store={folder}/store"]), context=RunContext(out_dir=folder / "0", name=device),
        parent_only=False, output=folder / "0" / job.OUTPUT, threads=1, gpu="1" if device == "cuda" else None,
        device="cpu" if how == "forked" else device, began=0.0,
    )  # fmt: skip
    fork_context = processes.make_fork_context([])
    fork_context.set_forkserver_preload(["cuda_in_server"])
    with processes.share_import_path():
        process = processes.start_job(fork_context, task, report_device)
        process.join()
    print(process.exitcode, task.output.read_text())


if __name__ == "__main__":
    main()
