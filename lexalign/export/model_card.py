"""README.md of an exported model: data, method, measurements with their intervals, where everything comes from, and the commands."""

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
"""How paths begin that lead to the same thing on every machine."""


def make_card(subject: ExportSource, chosen: MergeChoice) -> str:
    """The card. Secrets are taken out, and a path of this machine is told by its last part only."""
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
    """The run that left a model, the one it started from, and so on, as far as they are on this disk."""
    seen: set[Path] = set()
    while past.folder is not None and past.folder not in seen:
        seen.add(past.folder)
        yield past
        past = Provenance.of(past.start["path"]) if past.start.get("path") else Provenance()


def find_own_result(past: Provenance) -> Result | None:
    """What was measured when the model was trained; None where its run is not at hand."""
    return read_result(past.folder.parent) if past.folder is not None else None


def make_front_matter(subject: ExportSource, steps: list[Provenance]) -> str:
    """What the hub reads of a card."""
    place = subject.source.place
    sources = [find_data(path) for past in steps if (path := past.manifest.get("data", {}).get("path"))]
    facts: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    facts["tags"] = ["lexalign", *dict.fromkeys(name for past in steps if (name := past.setting("method", "name")))]
    if place.kind == "hub":
        facts["base_model"] = place.name
    if hubs := sorted({found.name for found in sources if found.kind == "hub"}):
        facts["datasets"] = hubs
    if known := find_license(place, subject.source.revision):
        facts["license"] = known
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---"


def find_license(place: Location, revision: str | None) -> str | None:
    """The licence that the base's own card names; None where none is at hand."""
    if place.name.startswith(OWN):
        return OWN_LICENSE
    if place.kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(place.name, "README.md", revision=revision)
        card = Path(found) if isinstance(found, str) else None
    else:
        card = place.path / "README.md" if place.path is not None and place.path.is_dir() else None
    if card is None or not card.is_file():
        return None
    from huggingface_hub import metadata_load

    return (metadata_load(card) or {}).get("license")


def make_title(subject: ExportSource) -> str:
    """Name of the repository, or of base and method."""
    if subject.experiment.export.push:
        return subject.experiment.export.push.rpartition("/")[2]
    method = subject.past.setting("method", "name")
    return "-".join(filter(None, (shorten_path(subject.source.place.name).rpartition("/")[2].removeprefix(OWN), method)))


def make_summary(subject: ExportSource, kept: Way) -> str:
    """What the model is, in a sentence or two."""
    past, bits = subject.past, subject.bits
    data = past.manifest.get("data", {}).get("path")
    trained = f", trained with {past.setting('method', 'name')} on {shorten_path(data)}" if data else ""
    quantized = f" The adapter was trained on a base of {bits} bits." if bits else ""
    return f"{shorten_path(subject.source.place.name)}{trained}; {IN_WORDS[kept]}, in {subject.dtype}.{quantized}"


def describe_measurement(result: Result) -> str:
    """The run's own measurement, on its held-out rows."""
    before, after = result.metrics["before"], result.metrics["after"]
    lines = ["| metric | n | before training | after | 95 % interval |", "|---|---|---|---|---|"]
    for name, value in after.items():
        low, high = result.intervals[name]
        first = f"{before[name]:.4f}" if name in before else ""
        lines.append(f"| {name} | {result.n[name]} | {first} | {value:.4f} | {low:.4f} to {high:.4f} |")
    return "Held-out rows; intervals are bootstrapped over them.\n\n" + "\n".join(lines)


def describe_change(chosen: MergeChoice) -> str:
    """KL divergence and perplexity of each way against the model as it was trained."""
    trained = chosen.trained
    if not chosen.ways:
        return "Nothing: the weights are those of the training run, in their own type."
    lines = ["| model | n | perplexity | KL(trained ‖ this), nats a token |", "|---|---|---|---|"]
    lines.append(f"| as trained | {trained.n['perplexity']} | {format_interval(trained, 'perplexity')} | |")
    for way, found in chosen.ways.items():
        mark = " (this one)" if way == chosen.way else ""
        lines.append(
            f"| {IN_WORDS[way]}{mark} | {found.n['kl']} | {format_interval(found, 'perplexity')} | {format_interval(found, 'kl')} |"
        )
    return "Next-token distributions on held-out rows, with 95 % intervals.\n\n" + "\n".join(lines)


def format_interval(found: Measurement, name: str) -> str:
    """A number and its interval."""
    low, high = found.intervals[name]
    return f"{found.values[name]:.4g} ({low:.4g} to {high:.4g})"


def describe_provenance(subject: ExportSource, steps: list[Provenance]) -> str:
    """Base, runs from the first to the last, code, versions and licence."""
    source = subject.source
    known = find_license(source.place, source.revision)
    lines = [f"- base: {shorten_path(source.place.name)}" + (f" at {source.revision}" if source.revision else "")]
    lines.append(f"- licence: {known}, as its base's" if known else "- licence: not known here; that of the base holds")
    for number, past in enumerate(reversed(steps), 1):
        manifest = past.manifest
        method, data = past.setting("method", "name"), shorten_path(manifest.get("data", {}).get("path"))
        rows = manifest.get("counts", {}).get("train_rows")
        told = {name: past.setting("train", name) for name in ("learning_rate", "epochs", "max_steps", "batch_size")}
        knobs = ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)
        lines.append(f"- run {number}: {method} on {data} ({rows} rows, seed {manifest.get('seed')}; {knobs}), {describe_code(manifest)}")
    lines.append(f"- exported by LexAlign {__version__}")
    return "\n".join(lines)


def describe_code(manifest: dict[str, Any]) -> str:
    """The code and the libraries that a manifest names."""
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    return f"LexAlign {manifest.get('lexalign')} at commit {manifest.get('git_commit')}; {versions}"


def list_commands(subject: ExportSource) -> str:
    """What was typed for each run, the first one first, and for the export."""
    typed = [["stage=export", f"model.path={subject.experiment.model.path}", f"export.dtype={subject.experiment.export.dtype}"]]
    for past in list_lineage(subject.past):
        result = find_own_result(past)
        typed += [result.command] if result is not None and result.command is not None else []
    return "\n".join(shlex.join(["python", "run.py", *map(hide_local_paths, line)]) for line in reversed(typed))


def hide_local_paths(word: str) -> str:
    """An override without the folders that this machine keeps things in."""
    key, equals, value = word.partition("=")
    return f"{key}{equals}{shorten_path(value)}" if value.startswith(("/", "~")) else word


def shorten_path(path: str | None) -> str:
    """A path that means something elsewhere as it is; of any other the last part."""
    if path is None:
        return "rows not known here"
    portable = path.startswith(PORTABLE) or find_model(path).kind == "hub"
    return path if portable else Path(path).name
