"""Imported by the process that jobs are forked from: what every job needs is read once, and shared.

Nothing here may start a thread: none outlives a fork.
"""

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
