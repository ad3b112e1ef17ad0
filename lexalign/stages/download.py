"""`stage=download`: fetch the model and the data set from the hub at a commit that is recorded."""

import logging
import math
from pathlib import Path
from typing import Any

from lexalign.artifacts.result import Result
from lexalign.config.paths import find_data, find_model
from lexalign.config.schema import Experiment
from lexalign.config.secrets import escape_control
from lexalign.errors import ConfigError
from lexalign.hub import FetchedRepository, fetch

log = logging.getLogger(__name__)


def run(experiment: Experiment, out_dir: Path, tracker: Any) -> Result:
    """Fetch the model and the data set; in a dry run, print what would be fetched.

    The result's details hold, under `model` and `dataset`, the commit, the folder and every file with size and sha256. Raises
    `ConfigError` if neither path names a hub repository, `HubError` if a repository cannot be fetched complete and undamaged.
    """
    settings = experiment.download
    details = {}
    for kind, repo, revision in list_requests(experiment):
        repository = fetch(
            repo=repo,
            kind=kind,
            revision=revision,
            include=settings.include,
            exclude=settings.exclude,
            output_dir=settings.output_dir,
            workers=settings.workers,
            retries=settings.retries,
            dry_run=experiment.dry_run,
        )
        log.info("%s %s is at commit %s", kind, repo, repository.commit)
        print(escape_control(make_table(repository, dry_run=experiment.dry_run)))
        details[kind] = repository.details()
    return Result(
        status="planned" if experiment.dry_run else "finished",
        stage=experiment.stage.name,
        artifact=None if experiment.dry_run else (details.get("model") or details["dataset"])["folder"],
        counts={f"{kind}_{what}": count for kind, download in details.items() for what, count in count_files(download).items()},
        details=details,
    )


def make_table(repository: FetchedRepository, *, dry_run: bool) -> str:
    """Format the files and their sizes as lines of text."""
    rows = [(file.path, format_size(file.size), "already here" if dry_run and file.is_present else "") for file in repository.files]
    rows.append((f"{len(rows)} files", format_size(repository.bytes), ""))
    if dry_run:
        rows.append(("still to fetch", format_size(sum(file.size for file in repository.files if not file.is_present)), ""))
    width = max(len(name) for name, _, _ in rows)
    head = f"{repository.kind} {repository.repo} at {repository.commit}"
    body = (f"  {name:<{width}}  {size:>9}  {note}".rstrip() for name, size, note in rows)
    return "\n".join([head, *body, f"  {'would go to' if dry_run else 'in'} {repository.folder}"])


def list_requests(experiment: Experiment) -> list[tuple[str, str, str | None]]:
    """List kind, repository and revision of each repository to fetch."""
    only, model, data = experiment.download.only, experiment.model, experiment.data
    requests = []
    if only in ("all", "models") and model.path is not None and find_model(model.path).kind == "hub":
        requests.append(("model", model.path, model.revision))
    if only in ("all", "datasets") and data.path is not None and (data.format == "hub" or find_data(data.path).kind == "hub"):
        requests.append(("dataset", data.path, data.revision))
    if not requests:
        raise ConfigError(
            f"stage=download download.only={only} has nothing to fetch: model.path={model.path} and data.path={data.path} "
            f"(data.format={data.format}) name nothing on the hub; type model.path=owner/name or data.path=owner/name"
        )
    if len(requests) > 1 and experiment.download.output_dir is not None:
        raise ConfigError(
            f"download.output_dir={experiment.download.output_dir} is one folder, and there are a model and a data set to fetch: "
            "type download.only=models or download.only=datasets"
        )
    return requests


def count_files(download: dict[str, Any]) -> dict[str, int]:
    return {"files": len(download["files"]), "bytes": download["bytes"]}


def format_size(count: int) -> str:
    power = min(int(math.log10(count)) // 3, 4) if count else 0
    return f"{count} B" if power == 0 else f"{count / 1000**power:.1f} {' kMGT'[power]}B"
