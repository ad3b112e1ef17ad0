"""Imported by the process that jobs are forked from: what every job needs is read once, and shared.

It must stay without threads, and without a CUDA that has been started: neither outlives a fork.
"""

import ctypes
import gc

from lexalign.startup import import_bitsandbytes_lightly

import_bitsandbytes_lightly()

import datasets  # noqa: E402, F401
import peft  # noqa: E402, F401
import transformers.trainer  # noqa: E402, F401

import lexalign.preflight.check  # noqa: E402
import lexalign.training  # noqa: E402, F401

gc.collect()
gc.freeze()
NOT_STARTED = 3
"""CUDA_ERROR_NOT_INITIALIZED."""


def cuda_started() -> bool:
    """Whether something has started CUDA in this process; asking does not."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != NOT_STARTED
