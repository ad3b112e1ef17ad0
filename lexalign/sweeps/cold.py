"""`python -m lexalign.sweeps.cold FILE`: a job that `lexalign.sweeps.job.go_on_cold` noted, in an interpreter of its own."""

import pickle
import sys
from pathlib import Path

from lexalign.sweeps.job import Task, attempt, end

if __name__ == "__main__":
    file = Path(sys.argv[1])
    task: Task = pickle.loads(file.read_bytes())
    file.unlink()
    end(attempt(task))
