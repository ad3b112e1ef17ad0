"""The data of the page's table and figures. They are drawn by the scripts in assets/."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lexalign.sweeps.report import points as pooling
from lexalign.sweeps.report.curves import gather_curves
from lexalign.sweeps.report.gather import SEED, Report, ReportRow, get_value
from lexalign.sweeps.report.importance import measure_importance
from lexalign.sweeps.report.points import Point, to_numbers

MOST_POINTS = 2000
"""Dots or lines in a figure: more cannot be told apart. The table and the CSV file have all."""
MOST_NAMES = 8
"""Up to so many different numbers stand evenly spaced, each by its name, as names do."""
MOST_LISTED = 50


def make_figure_data(report: Report, points: Sequence[Point]) -> dict[str, Any]:
    """Return the data of the table and of all figures."""
    importance = measure_importance(report, points)
    return {
        "title": report.title,
        "score": {"name": report.score.name, "lower": report.score.lower_is_better} if report.score else None,
        "table": make_table(report),
        "settings": make_settings_figure(report, points[:MOST_POINTS]),
        "importance": {"shares": list(importance.shares.items()), "said": importance.said},
        "parallel": make_parallel_figure(report),
        "curves": make_curve_figure(report),
        "front": make_front_figure(report),
    }


def make_table(report: Report) -> dict[str, Any]:
    """Return columns and rows. Numbers are marked, so that they sort as numbers."""
    score, metrics = report.score.name if report.score else None, report.metrics
    columns: list[tuple[str, bool, bool]] = [
        ("job", False, False),
        *([("sweep", False, False)] if report.several else []),
        ("state", False, False),
    ]
    columns += [
        (key, to_numbers([row.settings[key] for row in report.rows if key in row.settings]) is not None, False) for key in report.swept
    ]
    columns += [(name, True, False) for name in ([score] if score else [])] + [("seconds", True, False), ("steps", True, False)]
    reasons = any(row.job.reason for row in report.rows)
    columns += [("reason", False, False)] if reasons else []
    columns += [(name, True, True) for name in metrics]
    rows = []
    for row in report.rows:
        job = row.job
        cells: list[Any] = [row.name, *([row.sweep] if report.several else []), job.state]
        cells += [row.settings.get(key) for key in report.swept]
        cells += [round_value(row.score)] if score else []
        cells += [round(job.seconds, 1) if job.seconds else None, job.steps]
        cells += [job.reason] if reasons else []
        rows.append([*cells, *(round_value(get_value(job, name)) for name in metrics)])
    last = Counter(name.rpartition(".")[2] for name, _, _ in columns)
    column_data = [
        {"name": name, "title": short if last[short := name.rpartition(".")[2]] == 1 else name, "number": number, "metric": metric}
        for name, number, metric in columns
    ]
    return {"columns": column_data, "rows": rows, "states": [row.job.state for row in report.rows]}


def round_value(number: float | None) -> float | None:
    """Six significant digits."""
    return None if number is None else float(f"{number:.6g}")


def make_axis(key: str, texts: Sequence[str | None]) -> dict[str, Any]:
    """A setting as an axis: the position of each value along it, and the names of the places, where it has any."""
    texts_there = [text for text in texts if text is not None]
    numbers = to_numbers(texts_there)
    distinct = sorted(set(texts_there), key=(lambda text: (float(text), text)) if numbers is not None else str)
    if numbers is None or len(distinct) <= MOST_NAMES:
        place = {text: at for at, text in enumerate(distinct)}
        return {"key": key, "names": distinct, "log": False, "at": [None if text is None else place[text] for text in texts]}
    return {"key": key, "names": None, "log": pooling.is_log(numbers), "at": [None if text is None else float(text) for text in texts]}


def make_settings_figure(report: Report, points: Sequence[Point]) -> dict[str, Any]:
    """Each setting that varies against the score."""
    keys = [key for key in report.swept if key != SEED and len({point.settings.get(key) for point in points}) > 1]
    return {
        "axes": [make_axis(key, [point.settings.get(key) for point in points]) for key in keys],
        "mean": [round_value(point.mean) for point in points],
        "low": [round_value(point.low) for point in points],
        "high": [round_value(point.high) for point in points],
        "n": [point.n for point in points],
        "jobs": [label_jobs(point.rows) for point in points],
    }


def label_jobs(rows: Sequence[ReportRow]) -> str:
    """The names of a few jobs."""
    return ", ".join(row.name for row in rows[:8]) + (" …" if len(rows) > 8 else "")


def make_parallel_figure(report: Report) -> dict[str, Any]:
    """Return each ranked job's settings and score for parallel coordinates; `rows` are places in the table."""
    rows = report.ranked[:MOST_POINTS]
    keys = [key for key in report.swept if key != SEED and len({row.settings.get(key) for row in rows}) > 1]
    return {
        "axes": [make_axis(key, [row.settings.get(key) for row in rows]) for key in keys],
        "score": [round_value(row.score) for row in rows],
        "rows": list(range(len(rows))),
        "names": [label_job(row, report) for row in rows],
        "left_out": len(report.ranked) - len(rows),
    }


def label_job(row: ReportRow, report: Report) -> str:
    """A job's name; its sweep's before it where there are several."""
    return f"{row.sweep}/{row.name}" if report.several and row.sweep else row.name


def make_curve_figure(report: Report) -> dict[str, Any]:
    """Return the learning curves with their names."""
    curves = gather_curves(report)
    return {
        "measures": curves.measures,
        "names": [label_job(row, report) for row in curves.rows],
        "settings": [", ".join(f"{key}={text}" for key, text in row.settings.items()) for row in curves.rows],
        "lines": [{name: lines[name] for name in curves.measures if name in lines} for lines in curves.lines],
        "left_out": curves.left_out,
    }


def make_front_figure(report: Report) -> dict[str, Any] | None:
    """Objectives against each other, where there are several."""
    if not report.objectives:
        return None
    values = {id(row): [get_value(row.job, score.name) for score in report.objectives] for row in report.ranked}
    rows = [row for row in report.ranked if None not in values[id(row)]]
    numbers_of = [[number for number in values[id(row)] if number is not None] for row in rows]
    best = {id(row) for row in pooling.find_pareto_front(rows, numbers_of, report.objectives)}
    rows = [row for at, row in enumerate(rows) if at < MOST_POINTS or id(row) in best]
    numbers_of = [[number for number in values[id(row)] if number is not None] for row in rows]
    best_places = [at for at, row in enumerate(rows) if id(row) in best]
    settings = [", ".join(f"{key}={text}" for key, text in row.settings.items()) for row in rows]
    return {
        "names": [score.name for score in report.objectives],
        "lower": [score.lower_is_better for score in report.objectives],
        "values": [[round_value(number) for number in of] for of in numbers_of],
        "jobs": [label_job(row, report) for row in rows],
        "settings": settings,
        "best": best_places,
        "listed": [[label_job(rows[at], report), numbers_of[at], settings[at]] for at in best_places[:MOST_LISTED]],
    }
