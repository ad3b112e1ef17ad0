"""`python -m lexalign.sweeps.respawn FILE`: a job that `lexalign.sweeps.job.respawn_job` noted, in an interpreter of its own."""

import pickle
import sys
from pathlib import Path

from lexalign.config.secrets import guard_streams
from lexalign.sweeps.job import Task, attempt_run, exit_with

if __name__ == "__main__":
    guard_streams()
    file = Path(sys.argv[1])
    task: Task = pickle.loads(file.read_bytes())
    file.unlink()
    exit_with(attempt_run(task))
