"""`stage=export`: a run's adapter merged into its base, held against the model that was trained, and written as one that stands alone."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from lexalign import hardware, identity, report
from lexalign.data import lengths
from lexalign.data import rows as data_rows
from lexalign.data.rows import Splits
from lexalign.errors import ConfigError
from lexalign.importing import first_imports
from lexalign.locate import find_data
from lexalign.past import Past
from lexalign.results import Result
from lexalign.schema import Data, Experiment

log = logging.getLogger(__name__)
NAMES = ("as trained", "exported")
OF_THE_FOLDER = ("lexalign", "git_commit", "versions", "kind", "base", "files", "sha256")
"""What a manifest tells of its own folder, not of how the model was trained."""
NAME_ROWS = "name rows to compare on: data=<one of conf/data> data.path=<file, folder or hub id>"


def run(experiment: Experiment, out_dir: Path, tracker: Any) -> Result:
    """Merge in each way there is, keep the one nearest to what was trained, write it whole, and upload it where `export.push` says so.

    Raises ArtifactError where the nearest is farther than `export.max_kl`, or does not come back from the disk as it was.
    """
    assert experiment.model.path is not None
    past = Past.of(experiment.model.path)
    experiment = dataclasses.replace(experiment, data=rows_of(experiment, past))
    splits = data_rows.load(experiment)  # before any weights: bad data are refused in a second
    if experiment.dry_run:
        return planned(experiment, past, len(splits.held_out))
    with first_imports():
        from lexalign.startup import begin

        begin(experiment, rows=len(splits.held_out))
        from lexalign import measuring
        from lexalign.hub import pushing

    settings, artifact = experiment.export, out_dir / "artifact"
    if settings.push:
        pushing.refuse_early(settings.push)
    what, chosen = make(experiment, past, splits, artifact)
    found = chosen.measured
    result = Result(status="finished", stage=experiment.stage.name, artifact=str(artifact.resolve()), counts=splits.counts)
    result.metrics, result.intervals, result.n = {"before": chosen.trained.values, "after": found.values}, found.intervals, found.n
    result.details = {"exported": what}
    if settings.push:
        result.details["pushed"] = pushing.push(artifact, settings.push, private=settings.private)
    measuring.tell(result, tracker, NAMES)
    return result


def make(experiment: Experiment, past: Past, splits: Splits, artifact: Path) -> tuple[dict[str, Any], Any]:
    """Write the exported folder; what is told of it in manifest and result, and what was chosen."""
    from lexalign import models
    from lexalign.data.tokens import Encoder
    from lexalign.export import card, choosing, comparing, merging, subject, writing

    what = subject.of(experiment, past)
    encoder = Encoder(models.load_tokenizer(experiment, what.source), experiment.data)
    trained = merging.as_trained(what, encoder.tokenizer)
    max_length = experiment.evaluate.max_length or past.max_length or trained.config.get_text_config().max_position_embeddings
    lengths.fit(splits, lengths.one_by_one(encoder), max_length=max_length, setting="evaluate.max_length")
    rows = splits.held_out[: experiment.export.rows]
    spans = comparing.sequences(encoder, rows, shared_belief=past.rewards.get("shared_belief", True), max_length=max_length)
    batch_size = experiment.evaluate.batch_size
    chosen = choosing.nearest(what, trained, encoder.tokenizer, spans, batch_size=batch_size, max_length=max_length)
    told = {
        "from": experiment.model.path,
        "from_sha256": past.manifest.get("sha256"),
        "base": what.source.place.name,
        "dtype": what.dtype,
        "way": chosen.way,
        "ways": {way: found.values for way, found in chosen.ways.items()},
    }
    facts, code = {**history(experiment, past, what.source), "exported": told}, experiment.model.trust_remote_code
    writing.write(chosen.model, encoder, artifact, spans=spans, card=card.text(what, chosen), facts=facts, code=code)
    return told, chosen


def history(experiment: Experiment, past: Past, source: Any) -> dict[str, Any]:
    """What the manifest tells of the model's training, which stays true of it: its reference, its rewards and its rows are found there."""
    if past.manifest:
        return {name: value for name, value in past.manifest.items() if name not in OF_THE_FOLDER}
    settings, start = identity.settings(experiment), {}
    if source.adapter is not None:  # an adapter from elsewhere was trained from its base
        start = {"path": source.place.name, "revision": source.revision}
        start |= {} if source.place.kind == "hub" else identity.place_identity(source.place, None, "models")
    data = {"path": experiment.data.path, **identity.data_identity(experiment.data)}
    return {"model": start, "data": data, "settings": {name: settings[name] for name in ("data", "export")}}


def rows_of(experiment: Experiment, past: Past) -> Data:
    """The rows to compare on: those that are named, else those that the model was trained and measured on."""
    if experiment.data.path is not None:
        return experiment.data
    path, found = experiment.model.path, past.data(experiment.extensions)
    if found is None or found.path is None:
        raise ConfigError(f"model.path={path}: does not tell which rows it was trained on; {NAME_ROWS}")
    place = find_data(found.path)
    if place.kind == "missing":
        raise ConfigError(f"model.path={path}: was trained on {found.path}: {place.problem}; {NAME_ROWS}")
    then = past.manifest["data"].get("files")
    if then is not None and identity.data_identity(found).get("files") != then:
        log.warning("%s is not what the model was trained on any more (sha256 differs); it is compared on the rows of today", found.path)
    return found


def planned(experiment: Experiment, past: Past, rows: int) -> Result:
    """`dry_run=true`: what would be exported."""
    quantized = f", trained on a base of {past.bits} bits: merged both ways, the nearer one kept" if past.bits else ""
    facts = {
        "stage": experiment.stage.name,
        "model": f"{experiment.model.path}{quantized}",
        "compared on": f"{experiment.data.path}: {min(rows, experiment.export.rows):,} of {rows:,} rows",
        "pushed to": f"{experiment.export.push} ({'private' if experiment.export.private else 'public'})"
        if experiment.export.push
        else "-",
        "device": hardware.resolve_device(experiment.hardware.device),
    }
    report.plan(facts, "nothing is exported")
    return Result(status="planned", stage=experiment.stage.name, counts={"held_out_rows": rows}, details={"plan": facts})
