"""`python run_sharded.py STRATEGY FOLDER words…`: an experiment whose model two processes on the CPU share.

Users are refused that: accelerate shards between GPUs only. See sitecustomize.py beside this file.
"""

import dataclasses
import sys
from pathlib import Path

from lexalign.training import signals

HERE = ("tracking=none", "hardware=ddp", "hardware.device=cpu")


def main(strategy: str, out_dir: Path, words: list[str]) -> int:
    """The exit code of the run."""
    from lexalign.config.compose import compose
    from lexalign.config.context import RunContext
    from lexalign.errors import LexAlignError, Stopped
    from lexalign.runs.execute import execute

    composed = compose([*HERE, f"output_dir={out_dir}", *words])
    kind, _, zero = strategy.partition("-")
    chosen = dataclasses.replace(composed.experiment.hardware, strategy=kind, zero=int(zero or 2))
    shared = dataclasses.replace(composed, experiment=dataclasses.replace(composed.experiment, hardware=chosen))
    try:
        execute(shared, RunContext(out_dir=out_dir, name="test"))
    except (LexAlignError, Stopped) as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    signals.exit_on_signals()
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
