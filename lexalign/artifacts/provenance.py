"""Provenance of a finished model, read from its manifest: its base, its rows, its types. No torch."""

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lexalign.artifacts import fingerprint
from lexalign.artifacts.manifest import read_manifest
from lexalign.config import targets
from lexalign.config.aliases import complete_settings
from lexalign.config.parsing import parse
from lexalign.config.paths import find_model, find_moved
from lexalign.config.schema import Data, Experiment
from lexalign.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a model was made. Empty for a model that this program did not train."""

    folder: Path | None = None
    """The artifact's folder."""
    manifest: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str) -> "Provenance":
        """Read the provenance of the model at `path`."""
        place = find_model(path)
        if place.kind == "run" and place.path is not None:
            return cls(folder=place.path, manifest=read_manifest(place.path))
        return cls()

    def setting(self, group: str, name: str) -> Any:
        """Return a setting that the model was trained with; None if it is not known."""
        return (self.manifest.get("settings", {}).get(group) or {}).get(name)

    @property
    def start(self) -> dict[str, Any]:
        """The model that training started from: path, revision, files (with their digests at that time); empty if unknown."""
        start = self.manifest.get("model", {})
        path = start.get("path")
        if path is None or self.folder is None or find_model(path).kind != "missing":
            return start
        moved = find_moved(path, self.folder)
        return {**start, "path": str(moved)} if moved is not None else start

    @property
    def rewards(self) -> dict[str, Any]:
        """How its implicit rewards were measured: beta, shared_belief."""
        return self.manifest.get("rewards") or {}

    @property
    def method_rewards(self) -> list[Any]:
        """The rewards that the model was trained for, in the form of `method.rewards`."""
        return self.setting("method", "rewards") or []

    @property
    def max_length(self) -> int | None:
        """Longest row in tokens."""
        return self.setting("train", "max_length")

    @property
    def bits(self) -> int | None:
        """Quantization of the base that its adapter stands on."""
        return self.setting("adapter", "bits") if self.manifest.get("kind") == "adapter" else None

    def data(self, extensions: list[str]) -> Data | None:
        """Return the data settings that the model was trained and measured with, at the hub's commit; None if they are not known.

        Raises ConfigError if the recorded settings do not parse today, or need code that is not allowed.
        """
        settings, source = self.manifest.get("settings", {}).get("data"), self.manifest.get("data", {})
        if not settings or not source.get("path"):
            return None
        settings = complete_settings(self.manifest["settings"])[0]["data"]
        tree = {**settings, "path": source["path"], **({"revision": source["revision"]} if "repo" in source else {})}
        problems = targets.find_target_problems({"data": tree}, [targets.OWN_PACKAGE, *extensions])
        data = parse(Data, tree, "data", problems)
        if data is None or problems:
            raise ConfigError([f"{self.folder}: its recorded data settings cannot be used: {problem}" for problem in problems])
        return data


def make_reference_experiment(
    experiment: Experiment, past: Provenance, name: str | None, *, setting: str, instead: str
) -> Experiment | None:
    """Return the experiment with the reference as its model; None if there is no reference.

    `name` is the value of `setting`: a path, null, or a word for the model that training started from (auto, reference). Raises ConfigError
    if that model has changed since; `instead` says what to type then.
    """
    if name is None:
        return None
    is_recorded = name in ("auto", "reference")
    path, revision = (past.start.get("path"), past.start.get("revision")) if is_recorded else (name, None)
    if path is None:
        log.info(
            "No reference: the files of %s do not record which model it was trained from (type %s=<path> to name one)",
            experiment.model.path,
            setting,
        )
        return None
    place, files = find_model(path), past.start.get("files")
    if place.kind == "missing":
        raise ConfigError(f"{setting}={name}: {place.problem}, and the model was trained from it; {instead}")
    if (
        is_recorded
        and files is not None
        and fingerprint.fingerprint_location(place, None, "models", digest=fingerprint.digest_bytes).get("files") != files
    ):
        raise ConfigError(f"{setting}={name}: {path} is not what the model was trained from any more (sha256 differs); {instead}")
    start = dataclasses.replace(experiment.model, path=path, revision=revision if place.kind == "hub" else None)
    return dataclasses.replace(experiment, model=start)
