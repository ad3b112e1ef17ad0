"""Experiments run by tests: in this process, which imports everything once, or in a process of their own, as a user types them."""

import itertools
import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lexalign.artifacts.result import Result
from lexalign.config.compose import compose
from lexalign.config.context import RunContext
from lexalign.runs.execute import execute

ROOT = Path(__file__).resolve().parent.parent
numbers = itertools.count()


def python_path(*folders: Path | str) -> str:
    """PYTHONPATH for a process of a test's: `folders`, this checkout, and what it is now (tests/file_guard among it)."""
    return os.pathsep.join([*map(str, folders), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@dataclass
class World:
    """A folder for runs and the store they share."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def run(self, *overrides: str, out_dir: Path | None = None, tracked: bool = False) -> tuple[Result, Path]:
        """Run an experiment in this process, without a tracker unless `tracked`; its result and its folder."""
        out_dir = out_dir or self.folder / f"run-{next(numbers)}"
        composed = compose([*([] if tracked else ["tracking=none"]), f"store={self.store}", f"output_dir={out_dir}", *overrides])
        return execute(composed, RunContext(out_dir=out_dir, name="test")), out_dir

    def type(self, *words: str, env: dict[str, str] | None = None, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """`python run.py …` as a user types it, in this world's folder."""
        return subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *words],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            timeout=timeout,
        )


def result_of(folder: Path) -> dict:
    """A run's result.json."""
    return json.loads((folder / "result.json").read_text())


def cpu_of_children() -> float:
    """CPU seconds of the processes this one has waited for: what a run costs, whatever else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
