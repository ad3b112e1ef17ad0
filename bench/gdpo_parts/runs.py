"""One run of the bench, and how numbers of several seeds are shown."""

import json
import math
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEFT_OUT = ["preflight=skip", "evaluate.draws=0", "evaluate.samples=0", "hardware.threads=1"]
"""What no table here shows, and what changes nothing that is trained."""
STUDENT = {3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t, two sides, 95 %, by the number of seeds."""


@dataclass(frozen=True)
class Desk:
    """Where runs are written, and the store they share."""

    scratch: Path
    store: Path

    def run(self, *overrides: str) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
        """The metrics of an align run before and after, and its measurements row by row."""
        from lexalign.evaluation.compare import FILE

        out_dir, result = self.execute(*overrides)
        return result.metrics, json.loads((out_dir / FILE).read_text(encoding="utf-8"))

    def make_artifact(self, *overrides: str) -> Path:
        """The model that an align run ends in."""
        return self.execute(*overrides)[0] / "artifact"

    def execute(self, *overrides: str) -> tuple[Path, Any]:
        """An align run's folder and result."""
        from lexalign.config.compose import compose
        from lexalign.config.context import RunContext
        from lexalign.runs.execute import execute

        out_dir = Path(tempfile.mkdtemp(dir=self.scratch))
        command = ["stage=align", "tracking=none", f"store={self.store}", f"output_dir={out_dir}", *LEFT_OUT, *overrides]
        return out_dir, execute(compose(command), RunContext(out_dir=out_dir, name="bench"))


def format_mean(values: list[float]) -> str:
    """Each seed's value, and the mean with its 95 % interval over the seeds where there are three or more; `none` where nothing was
    to be measured, as where no sample begins with a belief."""
    numbers = " / ".join("none" if math.isnan(value) else f"{value:.3f}" for value in values)
    if len(values) < 3 or any(map(math.isnan, values)):
        return numbers
    half = STUDENT.get(len(values), 2.0) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{numbers} ({statistics.mean(values):.3f} ± {half:.3f})"


def format_table(first: str, columns: tuple[str, ...], rows: dict[str, list[str]]) -> list[str]:
    """A table as Markdown."""
    lines = [f"| {first} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
