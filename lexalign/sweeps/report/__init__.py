"""`report.html` of a sweep, and `report=…`: what was run, what came out best, what decided it, what failed, what it cost.

`data` gathers, `points`, `importance`, `curves` and `told` make numbers and words of it, `page`, `table` and `export` show them.
"""

import sys
from pathlib import Path

from lexalign import artifacts
from lexalign.errors import ConfigError
from lexalign.schema import Experiment
from lexalign.sweeps.report import data, page

FILE = "report.html"


def write(folder: Path, *, live: bool = False) -> Path:
    """Write the report of the sweep in `folder`, whole or not at all; `live`: its jobs still run, and the page shows itself anew.

    Raises ConfigError where there is no sweep, or its ledger cannot be read.
    """
    path = folder / FILE
    artifacts.write_text(path, page.html(data.gather([folder], live=live)))
    return path


def conclude(folder: Path) -> None:
    """The report of a sweep whose jobs have ended, and its table on the terminal; a page that cannot be written is said, and no more."""
    from lexalign.sweeps.report import table

    found = data.gather([folder])
    table.show(found)
    try:
        artifacts.write_text(folder / FILE, page.html(found))
        print(f"written: {folder / FILE}")
    except OSError as error:
        print(f"{folder / FILE} is not written: {error.strerror}", file=sys.stderr)


def show(experiment: Experiment) -> None:
    """What `report=` asks for: the page, the table on the terminal, and the CSV file where one is named.

    Raises ConfigError for a folder that is no sweep and no run, or where something cannot be written.
    """
    from lexalign.sweeps.report import export, table

    named = [experiment.report] if isinstance(experiment.report, str) else experiment.report or []
    report = data.gather(named)
    files = {(report.folder or Path(experiment.output_dir)) / FILE: page.html(report)}
    if experiment.report_csv is not None:
        files[Path(experiment.report_csv).expanduser()] = export.as_csv(report)
    table.show(report)
    for path, text in files.items():
        try:
            artifacts.write_text(path, text)
        except OSError as error:
            raise ConfigError(f"report: {path} cannot be written ({error.strerror}); free its place, or name another") from error
        print(f"written: {path}")
