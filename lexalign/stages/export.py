"""`stage=export`: merge an adapter into its base, compare the result with the trained model, and write it as a full model."""

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
"""Keys of a manifest that describe its own folder, not the training."""
NAME_ROWS = "name rows to compare on: data=<one of conf/data> data.path=<file, folder or hub id>"


def run(experiment: Experiment, out_dir: Path, tracker: Any) -> Result:
    """Merge in each possible way, choose the result nearest to the trained model, write it, and upload it if `export.push` is set.

    Raises ArtifactError if the nearest is farther away than `export.max_kl`, or if the written folder does not hold the same model.
    """
    assert experiment.model.path is not None
    past = Provenance.read(experiment.model.path)
    experiment = dataclasses.replace(experiment, data=load_comparison_rows(experiment, past))
    splits = data_rows.load_rows(experiment)  # before any weights are loaded, so that wrong data are refused at once
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
    export_facts, choice = make_export(experiment, past, splits, artifact)
    measurement = choice.measurement
    result = Result(status="finished", stage=experiment.stage.name, artifact=str(artifact.resolve()), counts=splits.counts)
    result.metrics, result.intervals, result.n = (
        {"before": choice.trained.values, "after": measurement.values},
        measurement.intervals,
        measurement.n,
    )
    result.details = {"exported": export_facts}
    if settings.push:
        result.details["pushed"] = upload.push_folder(
            artifact,
            settings.push,
            private=settings.private,
            without=(MANIFEST,),  # it contains paths of this machine
        )
    recording.report_measurements(result, tracker, NAMES)
    return result


def make_export(experiment: Experiment, past: Provenance, splits: Splits, artifact: Path) -> tuple[dict[str, Any], Any]:
    """Write the exported folder; return its facts for manifest and result, and the choice."""
    from lexalign.export import comparison, folder, merge_choice, merging, model_card, source
    from lexalign.models import loading
    from lexalign.models.renderers import make_limit_check, make_renderer, settle_end_tokens

    export_source = source.find_export_source(experiment, past)
    encoder = make_renderer(experiment, loading.load_tokenizer(experiment, export_source.source))
    trained_model = merging.load_as_trained(export_source, encoder.tokenizer)
    settle_end_tokens(trained_model, encoder)
    max_length = experiment.evaluate.max_length or past.max_length or trained_model.config.get_text_config().max_position_embeddings
    limit_check = make_limit_check(trained_model, encoder, max_length=max_length, setting="evaluate.max_length")
    measure = lengths.measure_one_by_one(encoder)
    lengths.fit_lengths(splits, measure, max_length=max_length, setting="evaluate.max_length", look=limit_check)
    rows = splits.held_out[: experiment.export.rows]
    spans = comparison.encode_rows(encoder, rows, shared_belief=past.rewards.get("shared_belief", True), max_length=max_length)
    batch_size = experiment.evaluate.batch_size
    choice = merge_choice.choose_nearest(
        export_source, trained_model, encoder.tokenizer, spans, batch_size=batch_size, max_length=max_length
    )
    export_facts = {
        "from": experiment.model.path,
        "from_sha256": past.manifest.get("sha256"),
        "base": export_source.source.place.name,
        "dtype": export_source.dtype,
        "way": choice.way,
        "ways": {way: measurement.values for way, measurement in choice.ways.items()},
    }
    settle_end_tokens(choice.model, encoder)
    facts, code = {**describe_history(experiment, past, export_source.source), "exported": export_facts}, experiment.model.trust_remote_code
    folder.write_export(
        choice.model, encoder, artifact, spans=spans, card=model_card.make_card(export_source, choice), facts=facts, code=code
    )
    return export_facts, choice


def describe_history(experiment: Experiment, past: Provenance, source: Any) -> dict[str, Any]:
    """Return the facts of the model's training for the new manifest. Later stages read reference, rewards and data from it."""
    if past.manifest:
        return {name: value for name, value in past.manifest.items() if name not in OF_THE_FOLDER}
    settings, start_facts = fingerprint.list_deciding_settings(experiment), {}
    if source.adapter is not None:  # an adapter of another program: it was trained from its base
        start_facts = {"path": source.place.name, "revision": source.revision}
        start_facts |= {} if source.place.kind == "hub" else fingerprint.fingerprint_location(source.place, None, "models")
    data = {"path": experiment.data.path, **fingerprint.fingerprint_data(experiment.data)}
    return {"model": start_facts, "data": data, "settings": {name: settings[name] for name in ("data", "export")}}


def load_comparison_rows(experiment: Experiment, past: Provenance) -> Data:
    """Return the data to compare on: the configured data, else the data that the model was trained and measured on."""
    if experiment.data.path is not None:
        return experiment.data
    path, data = experiment.model.path, past.data(experiment.extensions)
    if data is None or data.path is None:
        raise ConfigError(f"model.path={path}: does not record which data it was trained on; {NAME_ROWS}")
    place = find_data(data.path)
    if place.kind == "missing":
        raise ConfigError(f"model.path={path}: was trained on {data.path}: {place.problem}; {NAME_ROWS}")
    recorded_files = past.manifest["data"].get("files")
    if recorded_files is not None and fingerprint.fingerprint_data(data).get("files") != recorded_files:
        log.warning("%s has changed since the model was trained (sha256 differs); the comparison uses the rows of today", data.path)
    return data


def plan_export(experiment: Experiment, past: Provenance, rows: int) -> Result:
    """Show what would be exported (`dry_run=true`)."""
    quantization_text = f", trained on a base of {past.bits} bits: merged both ways, and the nearer one chosen" if past.bits else ""
    facts = {
        "stage": experiment.stage.name,
        "model": f"{experiment.model.path}{quantization_text}",
        "compared on": f"{experiment.data.path}: {min(rows, experiment.export.rows):,} of {rows:,} rows",
        "pushed to": f"{experiment.export.push} ({'private' if experiment.export.private else 'public'})"
        if experiment.export.push
        else "-",
        "device": hardware.resolve_device(experiment.hardware.device),
    }
    summary.show_plan_table(facts, "nothing is exported")
    return Result(status="planned", stage=experiment.stage.name, counts={"held_out_rows": rows}, details={"plan": facts})
