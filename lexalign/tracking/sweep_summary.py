"""Record a sweep as one run beside its jobs: a table of the jobs, and a summary."""

import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lexalign.config.schema import Tracking

if TYPE_CHECKING:
    from lexalign.tracking import Tracker

log = logging.getLogger(__name__)

JOB_TYPE = "sweep"
"""The W&B job type of such a run. Its tracker continues the run that it has in the same folder."""


def record_sweep(
    tracker: "type[Tracker]", settings: Tracking, folder: Path, *, group: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Record a sweep with the tracker that `tracking._target_` names. An error is logged and does not end the sweep.

    `rows` hold one job each: number, values (the varied settings, as typed), state, score, score_name, score_direction and seconds; other
    keys are not read. `facts` are shown as the run's settings, without groups. `group` is the group of the jobs.
    """
    try:
        unnamed = dataclasses.replace(settings, name=None)  # the name belongs to the jobs
        run_config = {key: fact for key, fact in facts.items() if not isinstance(fact, Mapping)}
        with tracker(unnamed, folder, run_config, f"sweep {group}", group, JOB_TYPE) as opened:
            opened.table("jobs", make_table(rows))
            opened.summary(summarize_jobs(rows))
    except Exception as error:  # the sweep is finished: an error of the tracker must not fail it
        log.warning("The sweep was not recorded by the tracker: %s: %s", type(error).__name__, error)


def make_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make one row for each job: number, each varied setting, state, score and seconds. A column holds numbers if all its values are."""
    keys = list(dict.fromkeys(key for row in rows for key in row["values"]))
    readable = {key: all(to_number(row["values"].get(key)) is not None for row in rows) for key in keys}
    return [
        {
            "number": row["number"],
            **{key: to_number(value) if readable[key] else value for key in keys for value in [row["values"].get(key)]},
            "state": row["state"],
            "score": row["score"],
            "seconds": row["seconds"],
        }
        for row in rows
    ]


def to_number(value: Any) -> float | None:
    """Convert a typed value to an int or a float; None if it is not a number."""
    for kind in (int, float):
        with contextlib.suppress(TypeError, ValueError):
            return kind(value)
    return None


def summarize_jobs(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Summarize the jobs: the count of each state, the total seconds, the mean and the best score, and the number of the best job.

    `score` is the mean: a W&B sweep compares it if one of its runs is a sweep of ours over seeds.
    """
    summary: dict[str, float] = {f"jobs/{state}": count for state, count in sorted(Counter(row["state"] for row in rows).items())}
    summary |= {"jobs/all": len(rows), "seconds": sum(row["seconds"] or 0.0 for row in rows)}
    scored = [row for row in rows if row["score"] is not None and row["state"] == "finished"]
    if scored:
        pick = min if scored[0].get("score_direction") == "minimize" else max
        best = pick(scored, key=lambda row: row["score"])
        mean = sum(row["score"] for row in scored) / len(scored)
        summary |= {"score": mean, "best/score": best["score"], "best/number": best["number"]}
    return summary
