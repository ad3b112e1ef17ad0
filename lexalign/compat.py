"""Imports without Python's search for rings of garbage: among the million objects that torch and its kin make, it finds next to none, and
takes a fifth of the time of a refusal or a start."""

import contextlib
import gc
import sys
from collections.abc import Iterator


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
    imported = "trl" in sys.modules
    with pause_garbage_collection():
        yield
        if not imported:
            gc.freeze()
