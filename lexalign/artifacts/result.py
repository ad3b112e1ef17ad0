"""`result.json`: the outcome of a run."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lexalign.artifacts.files import write_json


@dataclass(kw_only=True)
class Result:
    """The outcome of one run.

    `metrics` holds two tables, `before` and `after` training, name to value (for stage=evaluate those of the reference and of the model);
    `score` is the one a sweep compares.
    """

    status: Literal["finished", "planned", "failed", "interrupted", "stopped", "paused", "pruned"]
    """interrupted = by a signal, stopped = by train.stop_after, paused = at the end of a round of its sweep, pruned = by its sweep; the
    same command goes on with any of these, and with a failed one."""
    stage: str
    method: str | None = None
    score: float | None = None
    score_name: str | None = None
    score_direction: Literal["maximize", "minimize"] | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=lambda: {"before": {}, "after": {}})
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95 % intervals of the metrics after training, bootstrapped over the rows."""
    n: dict[str, int] = field(default_factory=dict)
    """Rows (pairs, prompts) that each of these was measured on."""
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    """What predictions without a model come to on the same rows: metric to prediction to value."""
    warnings: list[str] = field(default_factory=list)
    """Signs that the numbers look better than the model is."""
    samples: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    artifact: str | None = None
    key: str | None = None
    parent: str | None = None
    seconds: float | None = None
    error: str | None = None
    command: list[str] | None = None
    """What was typed after `python run.py`."""
    details: dict[str, Any] = field(default_factory=dict)


RESULT = "result.json"


def write_result(out_dir: Path, result: Result) -> None:
    """Write `result.json`."""
    write_json(out_dir / RESULT, dataclasses.asdict(result))


def read_result(out_dir: Path) -> Result | None:
    """Read the result in a run's folder; None if there is none. The artifact of a folder that was moved is in that folder."""
    path = out_dir / RESULT
    if not path.is_file():
        return None
    result = Result(**json.loads(path.read_text(encoding="utf-8")))
    own = out_dir / "artifact"
    if result.artifact is not None and Path(result.artifact).name == own.name and own.is_dir():
        result.artifact = str(own.resolve())
    return result
