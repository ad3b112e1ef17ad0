"""Imported once by the process that the runs of `interrupted_runs` are forked from."""

import conftest  # noqa: F401
import datasets  # noqa: F401
import torch
from experiment_runner import World  # noqa: F401

from lexalign.compat import import_bitsandbytes_lightly

torch.set_num_threads(1)  # a pool of threads does not outlive a fork
import_bitsandbytes_lightly()

import peft  # noqa: E402, F401
import transformers  # noqa: E402, F401

import lexalign.models.loading  # noqa: E402
import lexalign.stages.train  # noqa: E402
import lexalign.trainers.dpo  # noqa: E402
import lexalign.trainers.gdpo  # noqa: E402
import lexalign.trainers.sft  # noqa: E402
import lexalign.training.trainer  # noqa: E402, F401
