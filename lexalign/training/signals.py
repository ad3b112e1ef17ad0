"""SIGTERM, SIGINT, SIGHUP, a scheduler's warning and the deadline: at once where nothing is lost by it, while training after the step and a
checkpoint."""

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
    """The signal that submitit is sent some time before the time limit, or before another job takes its place; None outside of its jobs."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    number = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    return number if callable(signal.getsignal(number)) else None  # else a process that a job has started


def requeue_job() -> None:
    """Have submitit put this job in its queue again and end the process.

    Raises its UncompletedJobError where the job has run as often as `hydra.launcher.max_num_timeout` allows; returns outside of its jobs.
    """
    if (number := get_warning_signal()) is not None:
        signal.raise_signal(number)


CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
"""Signals that ask a run to stop, and the exit codes that a shell reports for them."""


def list_stop_signals() -> list[signal.Signals]:
    """The signals that this process heeds. SIGHUP (the terminal was closed) is left alone where it is ignored, as nohup has it."""
    return [number for number in CODES if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


class Watcher:
    """What was asked of this process, and whether it is at work on something that is finished first."""

    def __init__(self) -> None:
        self.asked: Stopped | None = None
        self.training = False
        self.deadline: float | None = None
        self.on_ask: Callable[[Stopped], None] | None = None
        """Who else is to know."""

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler of all of them."""
        name, code = signal.Signals(number).name, CODES.get(signal.Signals(number))
        stop = Stopped(f"{name} was received", exit_code=code or 143, status="interrupted" if code else "stopped")
        if not self.training or (self.asked is not None and number == signal.SIGINT):
            self.asked = stop  # should a library swallow it: training will not begin
            raise stop
        if self.asked is None:
            self.asked = stop
            if self.on_ask is not None:
                self.on_ask(stop)
            hint = "; again to stop at once" if number == signal.SIGINT else ""
            print(f"\n{name}: finishing the step and saving{hint}", file=sys.stderr)

    def get_stop_reason(self) -> Stopped | None:
        """Why to stop after this step; None where nothing asks for it."""
        if self.asked is None and self.deadline is not None and time.time() >= self.deadline:
            self.asked = Stopped("train.stop_after is over", exit_code=143, status="stopped")
        return self.asked


watcher: Watcher | None = None
"""The one of the run under way; signals belong to the process, and a parent runs within its child."""
began: float | None = None
"""When what `train.stop_after` counts from began, in seconds since 1970: the sweep's start in its jobs; None = this process's."""


@contextmanager
def handle_signals() -> Iterator[None]:
    """Within the block, signals raise Stopped, or wait for a checkpoint `while_training`. Within another such block, nothing of its own."""
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
    """Within the block, a signal is noted until `get_stop_reason` asks for it; so is the end of `stop_after` minutes of this process."""
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
    if watcher.asked is not None:  # it came after the last step
        raise watcher.asked


def request_stop(stop: Stopped) -> None:
    """Have the run save and stop after this step."""
    if watcher is not None and watcher.asked is None:
        watcher.asked = stop


def get_stop_reason() -> Stopped | None:
    """Why the run should save and stop after this step; None where it should not."""
    return watcher.get_stop_reason() if watcher is not None else None


def exit_now(code: int) -> NoReturn:
    """End this process after a signal, without waiting for threads.

    The signal may have come between the start of a library's thread and its entry in the list of those that are told to end (as where
    transformers loads weights): Python would wait for such a thread for good. All that is to be kept is on the disk.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def exit_on_signals() -> None:
    """Before a run begins, exit at once with the code that a shell reports for the signal. There is nothing to finish, and Hydra, met while
    it composes, would make an error of its own out of SystemExit."""

    def at_once(number: int, frame: FrameType | None) -> None:
        os._exit(CODES[signal.Signals(number)])

    for number in list_stop_signals():
        signal.signal(number, at_once)
