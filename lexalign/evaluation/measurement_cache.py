"""Cache measurements by content: an earlier measurement is used again for the same model, rows, settings and code.

The measurement before training is the same for every run that starts from one model, so a sweep computes it only once.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lexalign.artifacts import files
from lexalign.artifacts.fingerprint import digest_code, list_versions
from lexalign.cache.cache import ContentCache, open_cache
from lexalign.config.schema import Experiment
from lexalign.config.secrets import redact_tree
from lexalign.distributed import collectives
from lexalign.evaluation.evaluator import Evaluator, Measurement
from lexalign.evaluation.intervals import RowValues

log = logging.getLogger(__name__)
CACHE = "measurements"
FILE = "measurement.json"
CODE = ("lexalign.evaluation", "lexalign.data", "lexalign.models", "lexalign.fast_path")
"""The packages whose code decides a measurement."""


def measure_once(experiment: Experiment, evaluator: Evaluator, model_key: str, measure: Callable[[], Measurement]) -> Measurement:
    """Return the cached measurement of an earlier run with the same key, else the result of `measure`. A cached one is logged.

    `model_key` identifies the model and its arithmetic (`fingerprint.make_reference_key`). A measurement that depends on others (a judge,
    lm-eval's tasks, a reward) is never cached, because their answers may change.
    """
    if asks_others(evaluator):
        return measure()
    cache, key = open_cache(experiment, CACHE), make_key(evaluator, model_key)
    entry_folder = collectives.broadcast(cache.get(key))
    if entry_folder is not None and (stored_measurement := read_measurement(entry_folder / FILE)) is not None:
        log.info("The same model was measured on the same %d rows before: its numbers are taken from the cache", len(evaluator.rows))
        return stored_measurement
    measurement = measure()
    if collectives.is_main():
        write_measurement(cache, key, measurement)
    return measurement


def asks_others(evaluator: Evaluator) -> bool:
    """Return whether a measurement depends on something that the key does not describe: a judge, lm-eval's tasks or a reward."""
    return bool(evaluator.settings.judge.url or evaluator.settings.tasks or evaluator.panel is not None)


def make_key(evaluator: Evaluator, model_key: str) -> str:
    """Return the key of a measurement: a hash of model, rows, all known rows, rendering, settings, code and versions."""
    material = {
        "model": model_key,
        "rows": evaluator.rows,
        "known": evaluator.known,
        "rendering": evaluator.encoder.settings(),
        "settings": dataclasses.asdict(evaluator.settings),
        "limits": [evaluator.max_length, evaluator.beta, evaluator.shared_belief],
        "code": [digest_code(package) for package in CODE],
        "versions": list_versions(),
    }
    return hashlib.sha256(json.dumps(material, sort_keys=True, default=str).encode()).hexdigest()[:32]


def write_measurement(cache: ContentCache, key: str, measurement: Measurement) -> None:
    """Store a measurement under its key, unless it contains a secret."""
    tree = {
        "rows": {name: dataclasses.asdict(values) for name, values in measurement.rows.items()},
        "answers": measurement.answers,
        "drawn": [[list(question), responses] for question, responses in measurement.drawn.items()],
        "pair_log_probs": measurement.pair_log_probs,
        "row_log_probs": measurement.row_log_probs,
        "counts": measurement.counts,
    }

    if json.dumps(redact_tree(tree)) != json.dumps(tree):
        log.info("The measurement is not cached: its rows or answers hold a secret of the environment, or a token")
        return

    def write(folder: Path) -> None:
        files.write_json(folder / FILE, tree)

    cache.put(key, write)


def read_measurement(path: Path) -> Measurement | None:
    """Read a stored measurement, with every number exact; None if the file is missing or is not a measurement."""
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Measurement(
            rows={name: RowValues(**values) for name, values in tree["rows"].items()},
            answers=tree["answers"],
            drawn={(question[0], question[1]): responses for question, responses in tree["drawn"]},
            pair_log_probs=[(chosen, rejected) for chosen, rejected in tree["pair_log_probs"]],
            row_log_probs=tree["row_log_probs"],
            counts=tree["counts"],
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
