"""Imported by the process that jobs are forked from: what every job needs is read once, and shared.

Nothing here may start a thread: none outlives a fork.
"""

from lexalign.importing import first_imports

with first_imports():  # a search would write to the pages that the jobs share
    from lexalign.startup import import_bitsandbytes_lightly

    import_bitsandbytes_lightly()

    import datasets  # noqa: F401
    import peft  # noqa: F401
    import transformers.trainer  # noqa: F401

    import lexalign.preflight.check
    import lexalign.training  # noqa: F401
