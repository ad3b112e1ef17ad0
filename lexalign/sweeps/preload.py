"""Imported by the process that jobs are forked from, so that all jobs share the libraries in memory.

Nothing here may start a thread: threads do not survive a fork.
"""

from lexalign.compat import freeze_first_imports, import_bitsandbytes_lightly

with freeze_first_imports():  # a search would write to the pages that the jobs share
    import_bitsandbytes_lightly()

    import datasets  # noqa: F401
    import peft  # noqa: F401
    import transformers.trainer  # noqa: F401

    import lexalign.training.pipeline  # noqa: F401
