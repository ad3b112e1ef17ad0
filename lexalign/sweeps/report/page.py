"""The page: one file that needs no network. It allows its own scripts only, by their digests."""

import base64
import hashlib
import importlib.util
import json
import time
from collections.abc import Iterable
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from lexalign.sweeps.report import figures, sections, wording
from lexalign.sweeps.report.gather import Report
from lexalign.sweeps.report.points import pool_seeds
from lexalign.sweeps.report.ties import find_ties

ASSETS = Path(__file__).parent / "assets"
RELOAD_SECONDS = 30
"""Seconds after which a page of a running sweep loads itself again."""
SECTIONS = (
    ("jobs", "Jobs"),
    ("settings", "Settings"),
    ("importance", "Importance"),
    ("parallel", "Parallel coordinates"),
    ("front", "Pareto front"),
    ("curves", "Learning curves"),
    ("failures", "Failures"),
    ("cost", "Cost"),
)


@cache
def read_plotly() -> str:
    """Plotly's own bundle, as its package carries it; the package itself is not imported."""
    spec = importlib.util.find_spec("plotly")
    assert spec is not None and spec.submodule_search_locations
    return (Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def make_page(report: Report) -> str:
    """The whole page."""
    points = pool_seeds(report)
    figure_data = figures.make_figure_data(report, points)
    parts = {
        "jobs": sections.make_jobs(figure_data),
        "settings": sections.make_settings(report, points),
        "importance": sections.make_importance(figure_data),
        "parallel": sections.make_parallel(figure_data),
        "front": sections.make_front(report, figure_data),
        "curves": sections.make_curves(figure_data),
        "failures": sections.make_failures(report),
        "cost": sections.make_cost(report),
    }
    sections_there = [(name, title) for name, title in SECTIONS if parts[name]]
    table, plots = ((ASSETS / name).read_text(encoding="utf-8") for name in ("table.js", "plots.js"))
    scripts = [table, read_plotly(), plots]
    body = "\n".join(
        [
            make_header(report, sections_there),
            "<main>",
            sections.make_best(report, points, find_ties(report, points)),
            *(
                f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>{parts[name]}</section>'
                for name, title in sections_there
            ),
            "</main>",
            f'<script type="application/json" id="data">{embed_json(figure_data)}</script>',
            *(f"<script>{text}</script>" for text in scripts),
        ]
    )
    return "\n".join(["<!doctype html>", '<html lang="en">', make_meta(report, scripts), f"<body>{body}</body></html>", ""])


def make_meta(report: Report, scripts: Iterable[str]) -> str:
    """The page's head: what may run in it, and how it looks."""
    digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)
    policy = (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    refresh = f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}">' if report.live else ""
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    return (
        f'<head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">{refresh}'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(report.title)}: sweep report</title><style>{style}</style></head>"
    )


def embed_json(value: Any) -> str:
    """JSON that stays data wherever it stands in a page."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def make_header(report: Report, sections_there: Iterable[tuple[str, str]]) -> str:
    """Title, command, states and the way to each section."""
    written = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    state = f"Still running. Written {written}; loads itself again every {RELOAD_SECONDS} s." if report.live else f"Written {written}."
    chips = "".join(f'<li class="chip {name}"><b>{count:,}</b> {name}</li>' for name, count in wording.format_state_counts(report).items())
    command = sections.make_copy_button(report.command, "the sweep's command") if report.command else ""
    place = f'<p class="muted">{escape(report.clean(str(report.folder)))}</p>' if report.folder else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in sections_there)
    return (
        f'<a class="skip" href="#jobs">Skip to the jobs</a><header><div class="title"><h1>{escape(report.title)}</h1>'
        f'<ul class="chips" aria-label="Jobs by state">{chips}</ul></div>{place}{command}'
        f'<p class="muted{" live" if report.live else ""}">{escape(state)}</p>{notes}</header><nav aria-label="Sections">{links}</nav>'
    )
