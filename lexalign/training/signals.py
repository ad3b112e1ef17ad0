"""SIGTERM, SIGINT, SIGHUP, a scheduler's warning and the deadline stop a run: at once outside of training, and during training after the
step and a checkpoint."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import psutil

from lexalign.errors import Stopped


def get_warning_signal() -> signal.Signals | None:
    """The signal that submitit receives before the time limit, or before another job takes its place; None outside of its jobs."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    number = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    return number if callable(signal.getsignal(number)) else None  # it is not callable in a process that a job has started


def requeue_job() -> None:
    """Make submitit put this job in its queue again and end the process. Outside of its jobs this does nothing.

    Raises submitit's UncompletedJobError if the job has run as often as `hydra.launcher.max_num_timeout` allows.
    """
    if (number := get_warning_signal()) is not None:
        signal.raise_signal(number)


CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
"""Signals that ask a run to stop, and the exit codes that a shell reports for them."""


def list_stop_signals() -> list[signal.Signals]:
    """The signals that stop this process. SIGHUP (the terminal was closed) is left out if it is ignored, as under nohup."""
    return [number for number in CODES if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


class Watcher:
    """Records a request to stop this process, and whether it is training and must finish its step first."""

    def __init__(self) -> None:
        self.asked: Stopped | None = None
        self.training = False
        self.deadline: float | None = None
        self.on_ask: Callable[[Stopped], None] | None = None
        """Called with the first request to stop."""

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler of all these signals."""
        name, code = signal.Signals(number).name, CODES.get(signal.Signals(number))
        stop = Stopped(f"{name} was received", exit_code=code or 143, status="interrupted" if code else "stopped")
        if not self.training or (self.asked is not None and number == signal.SIGINT):
            self.asked = stop  # if a library catches it, training still does not begin
            raise stop
        if self.asked is None:
            self.asked = stop
            if self.on_ask is not None:
                self.on_ask(stop)
            hint = "; again to stop at once" if number == signal.SIGINT else ""
            print(f"\n{name}: finishing the step and saving{hint}", file=sys.stderr)

    def get_stop_reason(self) -> Stopped | None:
        """The reason to stop after this step; None if there is none."""
        if self.asked is None and self.deadline is not None and time.time() >= self.deadline:
            self.asked = Stopped("train.stop_after is over", exit_code=143, status="stopped")
        return self.asked


watcher: Watcher | None = None
"""The watcher of the current run. A process has one watcher, because it gets the signals; a parent runs within its child."""
began: float | None = None
"""The time from which `train.stop_after` counts, in seconds since 1970: the sweep's start in its jobs; None = this process's start."""


@contextmanager
def handle_signals() -> Iterator[None]:
    """Within the block, signals raise Stopped. Within `defer_signals` they wait for a checkpoint. An inner block changes nothing."""
    global watcher
    if watcher is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    watcher, warning = Watcher(), get_warning_signal()
    previous_handlers = {
        number: signal.signal(number, watcher.receive) for number in (*list_stop_signals(), *([warning] if warning else []))
    }
    try:
        yield
    finally:
        watcher = None
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals(stop_after: float | None) -> Iterator[None]:
    """Within the block, a signal is recorded and `get_stop_reason` returns it. The same holds for the end of `stop_after` minutes.

    Raises Stopped at the start or at the end of the block if a signal has come.
    """
    if watcher is None:
        yield
        return
    if watcher.asked is not None:
        raise watcher.asked
    watcher.training = True
    watcher.deadline = (began or psutil.Process().create_time()) + stop_after * 60 if stop_after else None
    try:
        yield
    finally:
        watcher.training = False
    if watcher.asked is not None:  # the signal came after the last step
        raise watcher.asked


def request_stop(stop: Stopped) -> None:
    """Make the run save and stop after this step."""
    if watcher is not None and watcher.asked is None:
        watcher.asked = stop


def get_stop_reason() -> Stopped | None:
    """The reason why the run should save and stop after this step; None if it should not stop."""
    return watcher.get_stop_reason() if watcher is not None else None


def exit_now(code: int) -> NoReturn:
    """End this process after a signal, without waiting for threads.

    The signal may have come after the start of a library's thread and before Python's list of threads to end contains it (for example when
    transformers loads weights). Python would wait for such a thread forever. All results are already on the disk.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def exit_on_signals() -> None:
    """Make signals before a run end the process at once, with the code that a shell reports for the signal.

    There is nothing to finish. SystemExit is not used, because Hydra would turn it into its own error while it composes.
    """

    def at_once(number: int, frame: FrameType | None) -> None:
        os._exit(CODES[signal.Signals(number)])

    for number in list_stop_signals():
        signal.signal(number, at_once)
