"""Results of preflight checks, stored below `store`. Another run with the same inputs reuses them, in a sweep or when it is repeated."""

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
"""Seconds to wait for another run that does the same check. After that time the check is done twice."""
PACE = ("learning_rate", "scheduler", "warmup_steps", "weight_decay", "max_grad_norm", "epochs", "max_steps")
"""Settings of the training loop that do not change the first forward and backward."""


def key_artifact_trial(experiment: Experiment) -> dict[str, Any]:
    """The inputs that saving and loading the artifact depends on: the model, its adapter, the precision; not the training."""
    made_of = fingerprint.describe_inputs(experiment)
    settings = {name: value for name, value in made_of["settings"].items() if name not in ("train", "evaluate", "seed")}
    settings["method"] = experiment.method.target if experiment.method else None
    return {**made_of, "settings": settings}


def key_step_trial(experiment: Experiment) -> dict[str, Any]:
    """The inputs that a first step depends on: all except the `PACE` settings, beta and, in most cases, the seed.

    At step 0, beta multiplies rewards of 0. The seed only draws the adapter's first values and the order of the rows. It is an input if it
    also decides which rows are a batch.
    """
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
    """The result of `find` (plain values), and whether it comes from an earlier run with the same `depends_on`.

    It is never reused with `preflight=only`, or in a run of several processes.
    """
    if experiment.preflight.mode != "check" or collectives.world_size() > 1:
        return find(), False
    surroundings = {name: value for name, value in fingerprint.describe_environment(experiment).items() if name != "threads"}
    material = json.dumps([what, depends_on, experiment.model.path, surroundings], sort_keys=True, default=str)
    name = f"{what}-{hashlib.sha256(material.encode()).hexdigest()[:32]}"
    memos, locks = cache.open_cache(experiment, "preflight"), Path(experiment.store) / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:  # a sweep's jobs start together: one does the check, the others wait
            stack.enter_context(FileLock(locks / f"{name}.lock", timeout=PATIENCE))
        except Timeout:
            log.warning("Preflight: another run has been at the same for %d s; not waiting any longer", PATIENCE)
        if (folder := memos.get(name)) is not None:
            return json.loads((folder / FILE).read_text(encoding="utf-8")), True
        result = find()
        memos.put(name, lambda entry_folder: files.write_json(entry_folder / FILE, result))
        return result, False
