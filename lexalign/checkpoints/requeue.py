"""A job of submitit's (on Slurm, or on this machine): the warning that its time is nearly over, and running again after that."""

import os
import signal


def warning() -> signal.Signals | None:
    """The signal that submitit is sent some time before the time limit, or before another job takes its place; None outside of its jobs."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    number = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    return number if callable(signal.getsignal(number)) else None  # else a process that a job has started


def again() -> None:
    """Have submitit put this job in its queue again and end the process.

    Raises its UncompletedJobError where the job has run as often as `hydra.launcher.max_num_timeout` allows; returns outside of its jobs.
    """
    if (number := warning()) is not None:
        signal.raise_signal(number)
