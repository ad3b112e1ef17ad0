"""Run EleutherAI's lm-eval on the loaded model. `evaluate.tasks` names its own tasks, or tasks of YAML files in `evaluate.task_dir`."""

import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from lexalign.config.parsing import suggest_nearest
from lexalign.config.schema import Evaluate
from lexalign.distributed import collectives
from lexalign.errors import ConfigError
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement

log = logging.getLogger(__name__)
NAMED = re.compile(r"^(?:task|group|tag):\s*['\"]?([\w.-]+)", re.MULTILINE)


def measure(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement, reference: MeasuredReference | None) -> None:
    """Record lm_eval/<task>/<metric>, with lm-eval's own standard error. Prompts become chat turns if those of the rows do."""
    settings = evaluator.settings
    if not settings.tasks or not collectives.is_main():
        return
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    policy: Any = model
    max_length = min(evaluator.max_length, policy.config.get_text_config().max_position_embeddings)
    lm_eval_model = HFLM(pretrained=policy, tokenizer=evaluator.encoder.tokenizer, batch_size=settings.batch_size, max_length=max_length)
    results = lm_eval.simple_evaluate(
        model=lm_eval_model,
        tasks=list(settings.tasks),
        task_manager=make_task_manager(settings.task_dir, tuple(settings.tasks)),
        apply_chat_template=evaluator.encoder.chat,
        log_samples=True,
    )
    assert results is not None  # lm-eval returns None only on the other ranks of a distributed run
    for task, table in results["results"].items():
        record_task(measurement, task, table, results)


def record_task(measurement: Measurement, task: str, table: dict[str, Any], results: Any) -> None:
    """Store the metrics of one task: row by row if they are means over its documents, else the values that lm-eval reports."""
    samples = results.get("samples", {}).get(task, [])
    for key, value in table.items():
        metric, _, filter_name = key.partition(",")
        if not filter_name or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        stderr = table.get(f"{metric}_stderr,{filter_name}")
        error = float(stderr) if isinstance(stderr, (int, float)) else None
        rows = [sample.get(metric) for sample in samples if sample.get("filter") == filter_name]
        name = f"lm_eval/{task}/{metric}" + ("" if filter_name == "none" else f",{filter_name}")
        if rows and all(isinstance(row, (int, float)) for row in rows) and abs(sum(rows) / len(rows) - value) < 1e-9:
            measurement.record(name, [float(row) for row in rows], stderr=error)
        else:
            count = results.get("n-samples", {}).get(task, {}).get("effective", 1)
            measurement.record(name, [float(value)], stderr=error, count=count)


def check_tasks(settings: Evaluate) -> None:
    """Raise ConfigError for tasks that lm-eval does not have. This needs no loaded model."""
    if not settings.tasks:
        return
    known_tasks = make_task_manager(settings.task_dir, tuple(settings.tasks)).all_tasks
    problems = [
        f"evaluate.tasks: lm-eval has no task {task}{suggest_nearest(task, known_tasks)}"
        + ("" if settings.task_dir else "; tasks of your own are found with evaluate.task_dir=<folder>")
        for task in settings.tasks
        if task not in known_tasks
    ]
    if problems:
        raise ConfigError(problems)


@lru_cache(maxsize=1)
def make_task_manager(folder: str | None, tasks: tuple[str, ...]) -> Any:
    """Make lm-eval's list of tasks. Its own thousands of files are read only if a task is not in the folder."""
    from lm_eval.tasks import TaskManager

    own_tasks = list_named_tasks(folder) if folder else frozenset()
    needs_defaults = not own_tasks.issuperset(tasks)
    if needs_defaults:
        log.info("Reading lm-eval's list of tasks")
    return TaskManager(include_path=folder, include_defaults=needs_defaults)


def list_named_tasks(folder: str) -> frozenset[str]:
    """Return the tasks, groups and tags that the YAML files of a folder name."""
    files = [path for path in Path(folder).expanduser().rglob("*") if path.suffix in (".yaml", ".yml")]
    return frozenset(name for path in files for name in NAMED.findall(path.read_text(encoding="utf-8")))
