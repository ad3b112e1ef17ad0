"""README.md of an exported model: data, method, measurements with their intervals, provenance and commands."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lexalign import __version__
from lexalign.artifacts.provenance import Provenance
from lexalign.artifacts.result import Result, read_result
from lexalign.config.paths import OWN, Location, find_data, find_model
from lexalign.config.secrets import redact
from lexalign.evaluation.evaluator import Measurement
from lexalign.export.merge_choice import MergeChoice
from lexalign.export.source import IN_WORDS, ExportSource, Way

OWN_LICENSE = "apache-2.0"
PORTABLE = (OWN, "pypi:", "generated:")
"""Prefixes of paths that mean the same on every machine."""


def make_card(subject: ExportSource, chosen: MergeChoice) -> str:
    """Make the model card, without secrets. It shows only the last part of a path of this machine."""
    steps = list(list_lineage(subject.past))
    result = find_own_result(subject.past)
    sections = [
        make_front_matter(subject, steps),
        f"# {make_title(subject)}\n\n{make_summary(subject, chosen.way)}",
        *([f"## Measured\n\n{describe_measurement(result)}"] if result is not None and result.metrics["after"] else []),
        f"## What the export changed\n\n{describe_change(chosen)}",
        f"## Where it comes from\n\n{describe_provenance(subject, steps)}",
        f"## Made by\n\n```bash\n{list_commands(subject)}\n```",
    ]
    return redact("\n\n".join(sections) + "\n")


def list_lineage(past: Provenance) -> Iterator[Provenance]:
    """Yield the run that made a model, the run it started from, and so on, as long as their folders are on this disk."""
    visited_folders: set[Path] = set()
    while past.folder is not None and past.folder not in visited_folders:
        visited_folders.add(past.folder)
        yield past
        past = Provenance.read(past.start["path"]) if past.start.get("path") else Provenance()


def find_own_result(past: Provenance) -> Result | None:
    """Read the result of the run that trained the model; None if its folder is not on this disk."""
    return read_result(past.folder.parent) if past.folder is not None else None


def make_front_matter(subject: ExportSource, steps: list[Provenance]) -> str:
    """Make the YAML header of the card, which the hub reads."""
    place = subject.source.place
    sources = [find_data(path) for past in steps if (path := past.manifest.get("data", {}).get("path"))]
    facts: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    facts["tags"] = ["lexalign", *dict.fromkeys(name for past in steps if (name := past.setting("method", "name")))]
    if place.kind == "hub":
        facts["base_model"] = place.name
    if hub_names := sorted({source.name for source in sources if source.kind == "hub"}):
        facts["datasets"] = hub_names
    if license := find_license(place, subject.source.revision):
        facts["license"] = license
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---"


def find_license(place: Location, revision: str | None) -> str | None:
    """Return the licence that the base's model card names; None if there is no card on this disk or it names none."""
    if place.name.startswith(OWN):
        return OWN_LICENSE
    if place.kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        cached_path = try_to_load_from_cache(place.name, "README.md", revision=revision)
        card = Path(cached_path) if isinstance(cached_path, str) else None
    else:
        card = place.path / "README.md" if place.path is not None and place.path.is_dir() else None
    if card is None or not card.is_file():
        return None
    from huggingface_hub import metadata_load

    return (metadata_load(card) or {}).get("license")


def make_title(subject: ExportSource) -> str:
    """Return the name of the repository, or the names of base and method if there is no repository."""
    if subject.experiment.export.push:
        return subject.experiment.export.push.rpartition("/")[2]
    method = subject.past.setting("method", "name")
    return "-".join(filter(None, (shorten_path(subject.source.place.name).rpartition("/")[2].removeprefix(OWN), method)))


def make_summary(subject: ExportSource, way: Way) -> str:
    """Describe the model in one or two sentences."""
    past, bits = subject.past, subject.bits
    data = past.manifest.get("data", {}).get("path")
    training_text = f", trained with {past.setting('method', 'name')} on {shorten_path(data)}" if data else ""
    quantization_text = f" The adapter was trained on a base of {bits} bits." if bits else ""
    return f"{shorten_path(subject.source.place.name)}{training_text}; {IN_WORDS[way]}, in {subject.dtype}.{quantization_text}"


def describe_measurement(result: Result) -> str:
    """Make the table of the run's own measurements on its held-out rows."""
    before, after = result.metrics["before"], result.metrics["after"]
    lines = ["| metric | n | before training | after | 95 % interval |", "|---|---|---|---|---|"]
    for name, value in after.items():
        low, high = result.intervals[name]
        before_cell = f"{before[name]:.4f}" if name in before else ""
        lines.append(f"| {name} | {result.n[name]} | {before_cell} | {value:.4f} | {low:.4f} to {high:.4f} |")
    return "Held-out rows; intervals are bootstrapped over them.\n\n" + "\n".join(lines)


def describe_change(chosen: MergeChoice) -> str:
    """Make the table of KL divergence and perplexity of each way against the model as it was trained."""
    trained_measurement = chosen.trained
    if not chosen.ways:
        return "Nothing: the weights are those of the training run, in their own type."
    lines = ["| model | n | perplexity | KL(trained ‖ this), nats a token |", "|---|---|---|---|"]
    lines.append(f"| as trained | {trained_measurement.n['perplexity']} | {format_interval(trained_measurement, 'perplexity')} | |")
    for way, measurement in chosen.ways.items():
        mark = " (this one)" if way == chosen.way else ""
        lines.append(
            f"| {IN_WORDS[way]}{mark} | {measurement.n['kl']} | {format_interval(measurement, 'perplexity')} "
            f"| {format_interval(measurement, 'kl')} |"
        )
    return "Next-token distributions on held-out rows, with 95 % intervals.\n\n" + "\n".join(lines)


def format_interval(measurement: Measurement, name: str) -> str:
    """Format a value with its interval."""
    low, high = measurement.intervals[name]
    return f"{measurement.values[name]:.4g} ({low:.4g} to {high:.4g})"


def describe_provenance(subject: ExportSource, steps: list[Provenance]) -> str:
    """List base, licence, runs from the first to the last, and the version of this program."""
    source = subject.source
    license = find_license(source.place, source.revision)
    lines = [f"- base: {shorten_path(source.place.name)}" + (f" at {source.revision}" if source.revision else "")]
    lines.append(f"- licence: {license}, as its base's" if license else "- licence: unknown; the licence of the base applies")
    for number, past in enumerate(reversed(steps), 1):
        manifest = past.manifest
        method, data = past.setting("method", "name"), shorten_path(manifest.get("data", {}).get("path"))
        rows = manifest.get("counts", {}).get("train_rows")
        hyperparameters = {name: past.setting("train", name) for name in ("learning_rate", "epochs", "max_steps", "batch_size")}
        settings_text = ", ".join(f"{name} {value}" for name, value in hyperparameters.items() if value is not None)
        lines.append(
            f"- run {number}: {method} on {data} ({rows} rows, seed {manifest.get('seed')}; {settings_text}), {describe_code(manifest)}"
        )
    lines.append(f"- exported by LexAlign {__version__}")
    return "\n".join(lines)


def describe_code(manifest: dict[str, Any]) -> str:
    """Return the code and library versions in a manifest as text."""
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    return f"LexAlign {manifest.get('lexalign')} at commit {manifest.get('git_commit')}; {versions}"


def list_commands(subject: ExportSource) -> str:
    """List the command of each run, from the first to the last, then that of the export."""
    commands = [["stage=export", f"model.path={subject.experiment.model.path}", f"export.dtype={subject.experiment.export.dtype}"]]
    for past in list_lineage(subject.past):
        result = find_own_result(past)
        commands += [result.command] if result is not None and result.command is not None else []
    return "\n".join(shlex.join(["python", "run.py", *map(hide_local_paths, command)]) for command in reversed(commands))


def hide_local_paths(word: str) -> str:
    """Return an override without the folders of this machine."""
    key, equals, value = word.partition("=")
    return f"{key}{equals}{shorten_path(value)}" if value.startswith(("/", "~")) else word


def shorten_path(path: str | None) -> str:
    """Return a path unchanged if it means the same on other machines, else its last part."""
    if path is None:
        return "unknown data"
    portable = path.startswith(PORTABLE) or find_model(path).kind == "hub"
    return path if portable else Path(path).name
