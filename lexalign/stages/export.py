"""`stage=export`: a run's adapter merged into its base, held against the model that was trained, and written as one that stands alone."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from lexalign.artifacts import fingerprint
from lexalign.artifacts.manifest import MANIFEST
from lexalign.artifacts.provenance import Provenance
from lexalign.artifacts.result import Result
from lexalign.compat import freeze_first_imports
from lexalign.config import hardware
from lexalign.config.paths import find_data
from lexalign.config.schema import Data, Experiment
from lexalign.data import lengths
from lexalign.data import rows as data_rows
from lexalign.data.rows import Splits
from lexalign.errors import ConfigError
from lexalign.evaluation import summary

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
    past = Provenance.of(experiment.model.path)
    experiment = dataclasses.replace(experiment, data=load_comparison_rows(experiment, past))
    splits = data_rows.load_rows(experiment)  # before any weights: bad data are refused in a second
    if experiment.dry_run:
        return plan_export(experiment, past, len(splits.held_out))
    with freeze_first_imports():
        from lexalign.models.setup import prepare_process

        prepare_process(experiment, rows=len(splits.held_out))
        from lexalign.evaluation import recording
        from lexalign.hub import upload

    settings, artifact = experiment.export, out_dir / "artifact"
    if settings.push:
        upload.refuse_early(settings.push)
    what, chosen = make_export(experiment, past, splits, artifact)
    found = chosen.measured
    result = Result(status="finished", stage=experiment.stage.name, artifact=str(artifact.resolve()), counts=splits.counts)
    result.metrics, result.intervals, result.n = {"before": chosen.trained.values, "after": found.values}, found.intervals, found.n
    result.details = {"exported": what}
    if settings.push:
        result.details["pushed"] = upload.push_folder(
            artifact,
            settings.push,
            private=settings.private,
            without=(MANIFEST,),  # it names folders and files of this machine
        )
    recording.report_measurements(result, tracker, NAMES)
    return result


def make_export(experiment: Experiment, past: Provenance, splits: Splits, artifact: Path) -> tuple[dict[str, Any], Any]:
    """Write the exported folder; what is told of it in manifest and result, and what was chosen."""
    from lexalign.export import comparison, folder, merge_choice, merging, model_card, source
    from lexalign.models import loading
    from lexalign.models.renderers import make_limit_check, make_renderer, settle_end_tokens

    what = source.find_export_source(experiment, past)
    encoder = make_renderer(experiment, loading.load_tokenizer(experiment, what.source))
    trained = merging.load_as_trained(what, encoder.tokenizer)
    settle_end_tokens(trained, encoder)
    max_length = experiment.evaluate.max_length or past.max_length or trained.config.get_text_config().max_position_embeddings
    look = make_limit_check(trained, encoder, max_length=max_length, setting="evaluate.max_length")
    measure = lengths.measure_one_by_one(encoder)
    lengths.fit_lengths(splits, measure, max_length=max_length, setting="evaluate.max_length", look=look)
    rows = splits.held_out[: experiment.export.rows]
    spans = comparison.encode_rows(encoder, rows, shared_belief=past.rewards.get("shared_belief", True), max_length=max_length)
    batch_size = experiment.evaluate.batch_size
    chosen = merge_choice.choose_nearest(what, trained, encoder.tokenizer, spans, batch_size=batch_size, max_length=max_length)
    told = {
        "from": experiment.model.path,
        "from_sha256": past.manifest.get("sha256"),
        "base": what.source.place.name,
        "dtype": what.dtype,
        "way": chosen.way,
        "ways": {way: found.values for way, found in chosen.ways.items()},
    }
    settle_end_tokens(chosen.model, encoder)
    facts, code = {**describe_history(experiment, past, what.source), "exported": told}, experiment.model.trust_remote_code
    folder.write_export(chosen.model, encoder, artifact, spans=spans, card=model_card.make_card(what, chosen), facts=facts, code=code)
    return told, chosen


def describe_history(experiment: Experiment, past: Provenance, source: Any) -> dict[str, Any]:
    """What the manifest tells of the model's training, which stays true of it: its reference, its rewards and its rows are found there."""
    if past.manifest:
        return {name: value for name, value in past.manifest.items() if name not in OF_THE_FOLDER}
    settings, start = fingerprint.list_deciding_settings(experiment), {}
    if source.adapter is not None:  # an adapter from elsewhere was trained from its base
        start = {"path": source.place.name, "revision": source.revision}
        start |= {} if source.place.kind == "hub" else fingerprint.fingerprint_location(source.place, None, "models")
    data = {"path": experiment.data.path, **fingerprint.fingerprint_data(experiment.data)}
    return {"model": start, "data": data, "settings": {name: settings[name] for name in ("data", "export")}}


def load_comparison_rows(experiment: Experiment, past: Provenance) -> Data:
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
    if then is not None and fingerprint.fingerprint_data(found).get("files") != then:
        log.warning("%s is not what the model was trained on any more (sha256 differs); it is compared on the rows of today", found.path)
    return found


def plan_export(experiment: Experiment, past: Provenance, rows: int) -> Result:
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
    summary.show_plan_table(facts, "nothing is exported")
    return Result(status="planned", stage=experiment.stage.name, counts={"held_out_rows": rows}, details={"plan": facts})
