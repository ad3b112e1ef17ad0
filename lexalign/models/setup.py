"""The start of a run that needs torch: skip slow imports, silence the libraries, set threads and seed."""

import os

import torch

from lexalign.compat import import_bitsandbytes_lightly
from lexalign.config import hardware
from lexalign.config.schema import Experiment

WORTH_A_BAR = 5000
"""From this number of rows on, tokenizing shows a progress bar."""


def prepare_process(experiment: Experiment, *, rows: int) -> None:
    """Prepare this process to load a model and to read `rows` rows."""
    import_bitsandbytes_lightly()
    import datasets
    from transformers import set_seed
    from transformers.utils import logging

    logging.disable_progress_bar()
    # Set in both cases, because the setting stays for the next job of a multirun.
    (datasets.disable_progress_bars if rows < WORTH_A_BAR else datasets.enable_progress_bars)()
    share = max(1, hardware.count_cores() // hardware.count_local_processes(experiment.hardware))
    torch.set_num_threads(experiment.hardware.threads or share)
    set_seed(experiment.seed)
    if experiment.deterministic != "off":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS is refused
    torch.use_deterministic_algorithms(experiment.deterministic != "off", warn_only=experiment.deterministic == "warn")
