"""`compare=[<sweep>,…]`: a sweep stands for its finished points."""

from collections.abc import Sequence
from pathlib import Path

from lexalign.artifacts.files import is_sweep
from lexalign.errors import ConfigError
from lexalign.sweeps.ledger import Ledger


def list_runs(named: Sequence[str]) -> list[str]:
    """The folders of the runs that are named, those of a sweep's finished points in place of the sweep. Raises ConfigError for a sweep
    without any."""
    runs: list[str] = []
    for name in named:
        folder = Path(name).expanduser()
        if not is_sweep(folder):
            runs.append(name)
            continue
        with Ledger(folder) as ledger:
            finished = [job.folder for job in ledger.read_jobs() if job.number is not None and job.state == "finished"]
        if not finished:
            raise ConfigError(f"compare: {name} is a sweep without a finished point; let it run first, or name runs")
        runs += finished
    return list(dict.fromkeys(runs)) if len(runs) > len(named) else runs
