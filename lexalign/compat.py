"""Imports without Python's search for rings of garbage: among the million objects that torch and its kin make, it finds next to none, and
takes a fifth of the time of a refusal or a start."""

import contextlib
import datetime
import gc
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """No search within the block."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextlib.contextmanager
def freeze_first_imports() -> Iterator[None]:
    """No search within the block; what it imported is never searched again. Of several jobs of a process the first imports: what those
    after it find there is theirs, and is not kept."""
    imported = "transformers" in sys.modules
    with pause_garbage_collection():
        yield
        if not imported:
            gc.freeze()


@contextlib.contextmanager
def hold_template_clock(day: datetime.date) -> Iterator[None]:
    """Within the block, the function `strftime_now` of chat templates gives this day at noon.

    Reason: transformers gives templates the machine's clock and replaces any function that is passed beside the conversation, so rows
    tokenised on two days differ without a word. Goes when `apply_chat_template` takes a date.
    """
    from transformers.utils import chat_template_utils

    noon = datetime.datetime.combine(day, datetime.time(12))

    class HeldClock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:  # type: ignore[override]
            return noon

    before = chat_template_utils.datetime  # type: ignore[attr-defined]
    chat_template_utils.datetime = HeldClock  # type: ignore[attr-defined, misc]
    try:
        yield
    finally:
        chat_template_utils.datetime = before  # type: ignore[attr-defined, misc]
