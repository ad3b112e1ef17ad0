"""`report.html` of a sweep, and `report=…`: what was run, what came out best, what decided it, what failed, what it cost.

`gather` reads the jobs, `points`, `ties`, `importance`, `curves` and `wording` make numbers and words of them, and `page`, `table` and
`csv_export` show these.
"""

import sys
from pathlib import Path

from lexalign.artifacts import files
from lexalign.config.schema import Experiment
from lexalign.errors import ConfigError
from lexalign.sweeps.report import gather, page

FILE = "report.html"


def write_report(folder: Path, *, live: bool = False) -> Path:
    """Write the report of the sweep in `folder`, whole or not at all. With `live` its jobs still run, and the page reloads itself.

    Raises ConfigError where there is no sweep, or its ledger cannot be read.
    """
    path = folder / FILE
    files.write_text(path, page.make_page(gather.gather_report([folder], live=live)))
    return path


def conclude_report(folder: Path) -> None:
    """Write the report of a sweep whose jobs have ended, and print its table. Where the page cannot be written, a message says so."""
    from lexalign.sweeps.report import table

    report = gather.gather_report([folder])
    table.show_table(report)
    try:
        files.write_text(folder / FILE, page.make_page(report))
        print(f"written: {folder / FILE}")
    except OSError as error:
        print(f"{folder / FILE} is not written: {error.strerror}", file=sys.stderr)


def show_report(experiment: Experiment) -> None:
    """Do what `report=` asks for: write the page, print the table, and write the CSV file where one is named.

    Raises ConfigError for a folder that is no sweep and no run, or where something cannot be written.
    """
    from lexalign.sweeps.report import csv_export, table

    folders = [experiment.report] if isinstance(experiment.report, str) else experiment.report or []
    report = gather.gather_report(folders)
    pages = {(report.folder or Path(experiment.output_dir)) / FILE: page.make_page(report)}
    if experiment.report_csv is not None:
        pages[Path(experiment.report_csv).expanduser()] = csv_export.make_csv(report)
    table.show_table(report)
    for path, text in pages.items():
        try:
            files.write_text(path, text)
        except OSError as error:
            raise ConfigError(f"report: {path} cannot be written ({error.strerror}); free its place, or name another") from error
        print(f"written: {path}")
