"""Check the settings of `report=`, and refuse those that it does not read."""

from collections.abc import Iterator
from pathlib import Path

from lexalign.artifacts.files import is_sweep
from lexalign.config.schema import Experiment

READ = frozenset({"report", "report_csv", "output_dir"})


def check_report(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Refuse settings of a run with a report, which runs nothing."""
    report = experiment.report
    if report is None:
        if experiment.report_csv is not None:
            yield f"report_csv={experiment.report_csv}: there is no report to take it from; type report=<folder of a sweep> beside it"
        return
    folders = [report] if isinstance(report, str) else report
    if not folders or not all(folder.strip() for folder in folders):
        yield "report: names no folder; name that of a sweep, or 'report=[folder,folder]'"
    if repeated_folders := sorted({folder for folder in folders if folders.count(folder) > 1}):
        yield f"report: {', '.join(repeated_folders)} stands there twice; name each folder once"
    for key in sorted(typed - READ):
        yield f"{key}: is not read with report=…, which runs nothing; leave it out"
    if "output_dir" in typed and len(folders) == 1 and is_sweep(Path(folders[0]).expanduser()):
        yield f"output_dir={experiment.output_dir}: the report of one sweep is written into its folder, {folders[0]}; leave it out"


def check_table(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Check the path of the table of all jobs."""
    if experiment.report is None or experiment.report_csv is None:
        return
    path = Path(experiment.report_csv).expanduser()
    if path.suffix.lower() != ".csv":
        yield f"report_csv={experiment.report_csv}: is written as CSV; name a file that ends in .csv"
    elif path.is_dir():
        yield f"report_csv={experiment.report_csv}: is a folder; name a file in it"
    elif not path.parent.is_dir():
        yield f"report_csv={experiment.report_csv}: there is no folder {path.parent}; make it, or name another file"


RULES = (check_report, check_table)
