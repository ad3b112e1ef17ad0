"""Compose an experiment and run it: `python run.py stage=align method=gdpo`, or `python run.py -m …` for a sweep."""

import sys

import hydra
from omegaconf import DictConfig

from lexalign.checkpoints import signals
from lexalign.launch import check_command_line, run_job


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """One job; returns its score, for Hydra's sweepers."""
    return run_job(cfg)


if __name__ == "__main__":
    signals.from_the_start()
    check_command_line(sys.argv[1:])
    try:
        main()
    except SystemExit as end:
        if end.code in signals.CODES.values():
            signals.leave(int(end.code))
        raise
