"""A sweep as one run of its own beside its jobs: a table of them, and what came out."""

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
"""What W&B calls the kind of such a run; its tracker goes on with the one it has in the same folder."""


def record_sweep(
    tracker: "type[Tracker]", settings: Tracking, folder: Path, *, group: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Record a sweep with the tracker that `tracking._target_` names; what goes wrong is said, and ends nothing.

    `rows` hold one job each: number, values (what the sweep varies, as typed), state, score, score_name, score_direction and seconds; other
    keys are not read. `facts` are shown as the run's settings, but for groups among them. `group` is the jobs' own.
    """
    try:
        unnamed = dataclasses.replace(settings, name=None)  # it is the jobs that have it
        told = {key: fact for key, fact in facts.items() if not isinstance(fact, Mapping)}
        with tracker(unnamed, folder, told, f"sweep {group}", group, JOB_TYPE) as opened:
            opened.table("jobs", make_table(rows))
            opened.summary(summarize_jobs(rows))
    except Exception as error:  # the sweep is over and done
        log.warning("The tracker was not told of the sweep: %s: %s", type(error).__name__, error)


def make_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a job: its number, each varied setting, state, score and seconds. A column is of numbers where all it holds are."""
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
    """The number that a typed value is, whole where it is typed so; None for a word."""
    for kind in (int, float):
        with contextlib.suppress(TypeError, ValueError):
            return kind(value)
    return None


def summarize_jobs(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How many jobs are in which state, the seconds of all, and the best, the mean and the first best one's number of the scores.

    `score` is the mean: it is what W&B's own sweep would compare where one of its runs is a sweep of ours, over seeds.
    """
    found: dict[str, float] = {f"jobs/{state}": count for state, count in sorted(Counter(row["state"] for row in rows).items())}
    found |= {"jobs/all": len(rows), "seconds": sum(row["seconds"] or 0.0 for row in rows)}
    scored = [row for row in rows if row["score"] is not None and row["state"] == "finished"]
    if scored:
        pick = min if scored[0].get("score_direction") == "minimize" else max
        best = pick(scored, key=lambda row: row["score"])
        mean = sum(row["score"] for row in scored) / len(scored)
        found |= {"score": mean, "best/score": best["score"], "best/number": best["number"]}
    return found
