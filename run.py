"""Compose an experiment and run it: `python run.py stage=align method=gdpo`, or `python run.py -m …` for a sweep."""

import sys

import hydra
from omegaconf import DictConfig

from lexalign.cli import check_command_line, run_job
from lexalign.training import signals


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """One job; returns its score, for Hydra's sweepers."""
    return run_job(cfg)


if __name__ == "__main__":
    signals.exit_on_signals()
    check_command_line(sys.argv[1:])
    try:
        main()
    except SystemExit as end:
        if end.code in signals.CODES.values():
            signals.exit_now(int(end.code))
        raise
