"""The page's sections as HTML. Texts from outside are escaped here; the scripts in assets/ draw the figures."""

from html import escape
from typing import Any

from lexalign.sweeps.report import figures, wording
from lexalign.sweeps.report.gather import Report
from lexalign.sweeps.report.points import Point
from lexalign.sweeps.report.ties import Ties, describe_settings

COLOURS = 'the stronger its colour, the better, and <b class="best-mark">the best</b> has its own'


def make_copy_button(text: str, name: str) -> str:
    """A command with a button that copies it."""
    return (
        f'<div class="command"><pre tabindex="0" aria-label="{escape(name)}"><code>{escape(text)}</code></pre>'
        f'<button type="button" class="copy" aria-label="Copy {escape(name)}">Copy</button></div>'
    )


def make_best(report: Report, points: list[Point], ties: Ties | None = None) -> str:
    """Show the best job and the command for it, and the best point over seeds where there are seeds."""
    if report.score is None:
        return '<section id="best"><h2>Best run</h2><p class="muted">Nothing has finished with a score yet.</p></section>'
    row = report.ranked[0]
    way = "lower is better" if report.score.lower_is_better else "higher is better"
    job_name = f"job {row.name}" + (f" of {row.sweep}" if report.several and row.sweep else "")
    if same := sum(other.score == row.score for other in report.ranked) - 1:
        job_name += f"; {same:,} more score{'s' if same == 1 else ''} the same"
    card = (
        f'<div class="figure"><span class="big">{wording.format_number(row.score)}</span>'
        f'<span class="muted">{escape(report.score.name)}, {way}</span></div>'
        f"<div><p><b>{escape(job_name)}</b></p>{make_list(row.settings)}</div>"
    )
    over_seeds = ""
    if best_point := next((point for point in points if point.n > 1), None):
        interval_text = (
            f"n = {best_point.n}, 95 % interval {wording.format_number(best_point.low)} to {wording.format_number(best_point.high)}"
        )
        over_seeds = (
            f'<div class="card"><div class="figure"><span class="big">{wording.format_number(best_point.mean)}</span>'
            f'<span class="muted">best mean over seeds</span></div><div><p><b>{interval_text}</b></p>'
            f"{make_list(best_point.settings)}</div></div>"
        )
    doubt = f'<p class="note">The best point ({escape(describe_settings(ties.best))}). {escape(ties.describe())}</p>' if ties else ""
    doubt += "".join(f'<p class="note">{escape(text)}</p>' for text in wording.describe_best_run(report))
    if not report.live and (doubtful := wording.describe_doubtful_jobs(report)) is not None:
        doubt += f'<p class="note">{escape(doubtful)}</p>'
    note = "Typed again, it returns this result; with another output_dir it is trained anew." if row.job.overrides else ""
    return (
        f'<section id="best"><h2>Best run</h2><div class="cards"><div class="card">{card}</div>{over_seeds}</div>{doubt}'
        f'{make_copy_button(wording.format_job_command(report, row), "the command of the best run")}<p class="muted">{note}</p></section>'
    )


def make_list(settings: dict[str, str]) -> str:
    """Settings as a list."""
    return '<dl class="settings">' + "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in settings.items()) + "</dl>"


def make_plot_frame(name: str, title: str) -> str:
    """Make the empty frame of a figure."""
    return f'<div class="plot" id="{name}" role="img" aria-label="{escape(title)}"></div>'


def make_jobs(figure_data: dict[str, Any]) -> str:
    """The table's frame; its rows are put in by the page, which sorts them."""
    if not figure_data["table"]["rows"]:
        return '<p class="muted">No jobs yet.</p>'
    return (
        '<div class="tools"><label>Filter <input type="search" id="filter" placeholder="words, as in failed 1e-4"></label>'
        '<label class="check"><input type="checkbox" id="measures"> all metrics</label>'
        '<span id="shown" class="muted" role="status"></span></div>'
        '<div class="scroll" tabindex="0" role="region" aria-label="All jobs">'
        '<table id="table"><thead></thead><tbody></tbody></table></div>'
        "<noscript><p>The table and the figures need JavaScript, which stands in this file.</p></noscript>"
    )


def make_settings(report: Report, points: list[Point]) -> str:
    """Each setting against the score."""
    if report.score is None or not points:
        return ""
    counts = sorted({point.n for point in points})
    seeds = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    bars = "bars are 95 % intervals of the mean (Student's t), none where n = 1" if counts[-1] > 1 else "one seed each, so no interval"
    omission = f" The best {figures.MOST_POINTS:,} of {len(points):,} points." if len(points) > figures.MOST_POINTS else ""
    return (
        f'<p class="muted">{escape(report.score.name)} of each point: the mean over its seeds ({seeds}); {bars} (a figure is as high as '
        f'its dots; a bar may leave it). The <b class="best-mark">diamonds</b> are the means of all points that have a value.{omission}</p>'
        '<div class="grid" id="settings-plots"></div>'
    )


def make_importance(figure_data: dict[str, Any]) -> str:
    """Show the importance of each setting, and how it was computed."""
    note = escape(figure_data["importance"]["said"])
    return f'<p class="muted">{note}</p>{make_plot_frame("importance-plot", "Importance of each setting")}'


def make_parallel(figure_data: dict[str, Any]) -> str:
    """All varied settings and the score at once."""
    if not figure_data["parallel"]["axes"] or len(figure_data["parallel"]["rows"]) < 2:
        return ""
    omission = f" The best {figures.MOST_POINTS:,} jobs." if figure_data["parallel"]["left_out"] else ""
    return (
        f'<p class="muted">A line is a finished job; {COLOURS}.{omission} Draw a box over an axis to keep the jobs that go through it, '
        'here and in the table. <button type="button" id="unbox" hidden>Show all again</button> <span id="boxed" role="status"></span></p>'
        f'<div class="wide">{make_plot_frame("parallel-plot", "Parallel coordinates of the varied settings and the score")}</div>'
    )


def make_front(report: Report, figure_data: dict[str, Any]) -> str:
    """Jobs that no other beats in every objective."""
    if not figure_data["front"]:
        return ""
    names = " and ".join(score.name for score in report.objectives)
    first = " The first two are drawn." if len(report.objectives) > 2 else ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{wording.format_number(value)}</td>' for value in values)}<td>{escape(text)}</td></tr>"
        for name, values, text in figure_data["front"]["listed"]
    )
    heads = "".join(f"<th scope=col>{escape(score.name)}</th>" for score in report.objectives)
    omission = f" The first {figures.MOST_LISTED} are listed." if len(figure_data["front"]["best"]) > figures.MOST_LISTED else ""
    return (
        f'<p class="muted">{len(figure_data["front"]["best"]):,} jobs that no other beats in {escape(names)} at once.{first}{omission}</p>'
        f'{make_plot_frame("front-plot", "Pareto front")}<div class="scroll" tabindex="0" role="region" aria-label="Pareto front">'
        f"<table><thead><tr><th scope=col>job</th>{heads}<th scope=col>settings</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def make_curves(figure_data: dict[str, Any]) -> str:
    """What was logged while training."""
    curves = figure_data["curves"]
    if not curves["measures"]:
        return ""
    options = "".join(f"<option>{escape(name)}</option>" for name in curves["measures"])
    omission = f" of {len(curves['names']) + curves['left_out']:,}" if curves["left_out"] else ""
    count = f"The best {len(curves['names'])}{omission} jobs" if len(curves["names"]) > 1 else "The best job"
    return (
        f'<div class="tools"><label>Measure <select id="measure">{options}</select></label>'
        f'<span class="muted">{count}; {COLOURS}.</span></div>'
        f"{make_plot_frame('curves-plot', 'Learning curves')}"
    )


def make_failures(report: Report) -> str:
    """What went wrong, with the last lines written."""
    failures, left_out = wording.group_failures(report)
    cards = []
    for failure in failures:
        names = ", ".join(row.name for row in failure.rows[:20]) + (
            f" and {len(failure.rows) - 20:,} more" if len(failure.rows) > 20 else ""
        )
        logs = "".join(
            f"<h3>{escape(name)} of job {escape(failure.rows[0].name)}</h3><pre tabindex=0>{escape(text)}</pre>"
            for name, text in failure.lines.items()
        )
        count = f"{len(failure.rows):,} job" + ("s" if len(failure.rows) > 1 else "")
        cards.append(
            f'<details class="failure"><summary><b>{count}</b> <span>{escape(failure.reason)}</span></summary>'
            f"<p>{'Jobs' if len(failure.rows) > 1 else 'Job'} {escape(names)}; {escape(report.clean(str(failure.rows[0].folder)))}</p>"
            f"{logs or '<p class=muted>It left no log.</p>'}</details>"
        )
    more = f'<p class="muted">{left_out:,} more reasons are in the table.</p>' if left_out else ""
    return "".join(cards) + more


def make_cost(report: Report) -> str:
    """Where the time went."""
    cost = wording.sum_cost(report)
    if not cost.total:
        return ""
    parts = sorted(cost.seconds.items(), key=lambda pair: -pair[1])
    bar = "".join(f'<span class="{kind}" style="flex-grow:{seconds:.3f}"></span>' for kind, seconds in parts)
    facts = {
        "all jobs together": wording.format_duration(cost.total),
        "jobs that ran": f"{cost.jobs:,}",
        "a job, on average": wording.format_duration(cost.total / cost.jobs),
        "optimizer steps": f"{cost.steps:,}",
        "spent on failed, interrupted and pruned jobs": f"{cost.lost:.1%}",
    }
    part_list = "".join(
        f'<li class="chip {kind}"><b>{wording.format_duration(seconds)}</b> {kind}, {seconds / cost.total:.1%}</li>'
        for kind, seconds in parts
    )
    fact_list = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items())
    return f'<div class="bar" aria-hidden="true">{bar}</div><ul class="chips">{part_list}</ul><dl class="facts">{fact_list}</dl>'
