"""How a finished model came to be, as its manifest tells it: what it was trained from, on which rows, in which types. No torch."""

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lexalign.artifacts import fingerprint
from lexalign.artifacts.manifest import read_manifest
from lexalign.config import targets
from lexalign.config.parsing import parse
from lexalign.config.paths import find_model
from lexalign.config.schema import Data, Experiment
from lexalign.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a model came to be; nothing is known of one that is no run of ours."""

    folder: Path | None = None
    """The artifact's folder."""
    manifest: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str) -> "Provenance":
        """What the folder at `path` tells of itself."""
        place = find_model(path)
        if place.kind == "run" and place.path is not None:
            return cls(folder=place.path, manifest=read_manifest(place.path))
        return cls()

    def setting(self, group: str, name: str) -> Any:
        """A setting that it was trained with; None where none is known."""
        return (self.manifest.get("settings", {}).get(group) or {}).get(name)

    @property
    def start(self) -> dict[str, Any]:
        """The model it was trained from: path, revision, files (their digests then); empty where nothing is known of one."""
        return self.manifest.get("model", {})

    @property
    def rewards(self) -> dict[str, Any]:
        """How its implicit rewards were measured: beta, shared_belief."""
        return self.manifest.get("rewards") or {}

    @property
    def listed(self) -> list[Any]:
        """The rewards by name that it was trained for, as `method.rewards` had them."""
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
        """The rows it was trained and measured on, at the hub's commit; None where they are not known.

        Raises ConfigError where they are not described as today, or need code that may not be run.
        """
        settings, source = self.manifest.get("settings", {}).get("data"), self.manifest.get("data", {})
        if not settings or not source.get("path"):
            return None
        tree = {**settings, "path": source["path"], **({"revision": source["revision"]} if "repo" in source else {})}
        problems = targets.find_target_problems({"data": tree}, [targets.OWN_PACKAGE, *extensions])
        found = parse(Data, tree, "data", problems)
        if found is None or problems:
            raise ConfigError([f"{self.folder}: its rows cannot be read as it tells: {problem}" for problem in problems])
        return found


def make_reference_experiment(
    experiment: Experiment, past: Provenance, named: str | None, *, setting: str, instead: str
) -> Experiment | None:
    """The experiment with the reference as its model; None where there is none.

    `named` is what `setting` says: a path, null, or the word that stands for the model it was trained from. Raises ConfigError where that
    is not what it was; `instead` is what to type then.
    """
    if named is None:
        return None
    of_the_past = named in ("auto", "reference")
    path, revision = (past.start.get("path"), past.start.get("revision")) if of_the_past else (named, None)
    if path is None:
        log.info("No reference: %s does not tell what it was trained from (%s=<path> names one)", experiment.model.path, setting)
        return None
    place, files = find_model(path), past.start.get("files")
    if place.kind == "missing":
        raise ConfigError(f"{setting}={named}: {place.problem}, and the model was trained from it; {instead}")
    if of_the_past and files is not None and fingerprint.fingerprint_location(place, None, "models").get("files") != files:
        raise ConfigError(f"{setting}={named}: {path} is not what the model was trained from any more (sha256 differs); {instead}")
    start = dataclasses.replace(experiment.model, path=path, revision=revision if place.kind == "hub" else None)
    return dataclasses.replace(experiment, model=start)
