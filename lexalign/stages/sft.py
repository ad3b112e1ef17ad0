"""Supervised fine-tuning."""

from pathlib import Path
from typing import Any

from lexalign import training
from lexalign.results import Result
from lexalign.schema import Experiment


def run(experiment: Experiment, out_dir: Path, tracker: Any) -> Result:
    """Fine-tune the model on text, conversations, or prompts and completions."""
    return training.run(experiment, out_dir, tracker)
