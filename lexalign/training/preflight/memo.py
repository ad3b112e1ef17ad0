"""What was found out before, kept below `store` for runs alike in what it depends on: a sweep's siblings, and a run that begins again."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lexalign.artifacts import files, fingerprint
from lexalign.cache import cache
from lexalign.config.schema import Experiment
from lexalign.distributed import collectives

log = logging.getLogger(__name__)
FILE = "found.json"
PATIENCE = 300.0
"""Seconds to wait for another run that is finding out the same; after them, it is found out twice."""
PACE = ("learning_rate", "scheduler", "warmup_steps", "weight_decay", "max_grad_norm", "epochs", "max_steps")
"""Settings of the loop that no first forward and backward depends on."""


def key_artifact_trial(experiment: Experiment) -> dict[str, Any]:
    """What the artifact's way to the disk and back depends on: the model, its adapter, the arithmetic; not how it will be trained."""
    made_of = fingerprint.describe_inputs(experiment)
    settings = {name: value for name, value in made_of["settings"].items() if name not in ("train", "evaluate", "seed")}
    settings["method"] = experiment.method.target if experiment.method else None
    return {**made_of, "settings": settings}


def key_step_trial(experiment: Experiment) -> dict[str, Any]:
    """What a step at the start depends on: everything but the pace of training; beta, since the rewards that it multiplies are 0; and the
    seed, which draws an adapter's first numbers and the order of the rows, unless it also decides which rows are a batch."""
    train = experiment.train
    assert train is not None
    made_of = fingerprint.describe_inputs(experiment)
    settings = {name: dict(value) if isinstance(value, dict) else value for name, value in made_of["settings"].items()}
    for part, names in (("train", PACE), ("method", ("beta",))):
        for name in names:
            (settings[part] or {}).pop(name, None)
    if not train.group_by_length and train.max_tokens is None:
        settings.pop("seed")
    return {**made_of, "settings": settings, "evaluate": dataclasses.asdict(experiment.evaluate)}


def remember(experiment: Experiment, what: str, depends_on: dict[str, Any], find: Callable[[], Any]) -> tuple[Any, bool]:
    """What `find` gives (plain values), or gave to a run for which all that it depends on was the same; and whether it was the latter.

    A run that only looks, and several processes that would look together, always find out.
    """
    if experiment.preflight.mode != "check" or collectives.world_size() > 1:
        return find(), False
    surroundings = {name: value for name, value in fingerprint.describe_environment(experiment).items() if name != "threads"}
    material = json.dumps([what, depends_on, experiment.model.path, surroundings], sort_keys=True, default=str)
    name = f"{what}-{hashlib.sha256(material.encode()).hexdigest()[:32]}"
    memos, locks = cache.open_cache(experiment, "preflight"), Path(experiment.store) / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:  # a sweep's jobs start together: one looks, the others wait
            stack.enter_context(FileLock(locks / f"{name}.lock", timeout=PATIENCE))
        except Timeout:
            log.warning("Preflight: another run has been at the same for %d s; not waiting any longer", PATIENCE)
        if (folder := memos.get(name)) is not None:
            return json.loads((folder / FILE).read_text(encoding="utf-8")), True
        result = find()
        memos.put(name, lambda entry_folder: files.write_json(entry_folder / FILE, result))
        return result, False
