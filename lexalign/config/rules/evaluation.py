"""Check the settings of the measurement, and refuse those that nothing reads."""

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from lexalign.config.paths import find_model
from lexalign.config.rules.training import HOLD_OUT, is_nothing_held_out
from lexalign.config.schema import Experiment

URL_USER = re.compile(r"//[^/]*@")
MEASURING = ("sft", "align", "evaluate")
"""Stages that measure a model."""
OWN = {"reference": "the model the run starts from is the reference", "beta": "type method.beta", "max_length": "type train.max_length"}
"""Settings of stage=evaluate, with the advice for each in stages that train."""


def check_enabled(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    stage, settings = experiment.stage.name, experiment.evaluate
    if stage not in MEASURING or experiment.data.path is None:
        return
    if stage == "evaluate":
        if not settings.enabled:
            yield "evaluate.enabled=false: stage=evaluate would have nothing to do; leave it out"
        return
    if settings.enabled and is_nothing_held_out(experiment):
        yield f"evaluate.enabled=true: there is nothing held out to measure on; {HOLD_OUT}, or type evaluate.enabled=false"
    if not settings.enabled:
        read_keys = {"evaluate.enabled"}
        if experiment.train is not None and experiment.train.eval_steps is not None:
            read_keys.add("evaluate.batch_size")
        for key in sorted(key for key in typed - read_keys if key.startswith("evaluate.")):
            yield f"{key}: is not read with evaluate.enabled=false; leave one of them out"


def check_reference(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Check settings that training reads from other groups."""
    stage, settings = experiment.stage.name, experiment.evaluate
    if stage in ("sft", "align"):
        for name, advice in OWN.items():
            if f"evaluate.{name}" in typed:
                yield f"evaluate.{name}: is read by stage=evaluate, not by stage={stage}; {advice}, or leave it out"
    if stage != "evaluate":
        return
    if settings.reference not in (None, "auto"):
        place = find_model(settings.reference)
        if place.kind in ("missing", "file"):
            problem = place.problem or "a model is a hub id, a folder, a run or a .gguf file"
            yield f"evaluate.reference={settings.reference}: {problem}; name another model, or type evaluate.reference=null for none"
    if "evaluate.beta" in typed and settings.beta is not None:
        if experiment.data.columns.chosen is None and experiment.data.columns.label is None:
            yield "evaluate.beta: scales the rewards of pairs, and data.columns.chosen names none; leave it out"
        elif settings.reference is None:
            yield "evaluate.beta: scales rewards against a reference, and evaluate.reference=null leaves it out; leave one of them out"


def check_shape(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Check the columns that evaluate and export need. These stages have no method that lists them."""
    stage = experiment.stage.name
    if stage not in ("evaluate", "export") or experiment.data.path is None:
        return
    columns = experiment.data.columns
    start_columns = [name for name in ("text", "messages", "prompt") if getattr(columns, name) is not None]
    if len(start_columns) != 1:
        names_text = f"names {' and '.join(start_columns)} at once" if start_columns else "names none"
        yield f"data.columns: stage={stage} reads text, messages or prompts, and it {names_text}; set the others to null"
    for name, partner in (("chosen", "rejected"), ("rejected", "chosen"), ("belief", "chosen"), ("label", "completion")):
        if getattr(columns, name) is not None and getattr(columns, partner) is None:
            yield f"data.columns.{partner}=null: data.columns.{name} means nothing without it; name the column of both"
    for name in ("completion", "chosen"):
        if getattr(columns, name) is not None and columns.prompt is None:
            yield f"data.columns.prompt=null: data.columns.{name} answers a prompt; name its column"


def check_drawing(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Refuse settings of drawn responses if none are drawn."""
    if experiment.stage.name not in MEASURING or experiment.data.path is None:
        return
    settings, columns = experiment.evaluate, experiment.data.columns
    if columns.belief is None and "evaluate.belief_samples" in typed:
        yield "evaluate.belief_samples: the data have no beliefs to sample; leave it out"
    for name in ("draws", "draw_prompts", "samples"):
        if f"evaluate.{name}" in typed and columns.prompt is None and getattr(settings, name):
            yield f"evaluate.{name}: the data have no prompts to answer; leave it out"
    if "evaluate.draw_prompts" in typed and not settings.draws:
        yield "evaluate.draw_prompts: is not read with evaluate.draws=0; leave one of them out"
    draws_responses = columns.prompt is not None and (settings.draws or (columns.belief is not None and settings.belief_samples))
    if "evaluate.seed" in typed and not draws_responses:
        yield "evaluate.seed: no response is drawn here; leave it out"


def check_judge(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    judge, columns = experiment.evaluate.judge, experiment.data.columns
    if experiment.stage.name not in MEASURING or experiment.data.path is None:
        return
    if judge.url is None:
        for key in sorted(key for key in typed if key.startswith("evaluate.judge.")):
            yield f"{key}: is read only with evaluate.judge.url=<where the judge is>; leave it out"
        return
    if not re.fullmatch(r"https?://[^/@\s?#]+(/[^@\s?#]*)?", judge.url):
        yield f"evaluate.judge.url={URL_USER.sub('//…@', judge.url)}: expected http(s)://host/path, as in http://localhost:8000/v1"
    if judge.model is None:
        yield "evaluate.judge.model=null: the endpoint serves models by name; type evaluate.judge.model=<its name>"
    if judge.key_env is not None and not os.environ.get(judge.key_env):
        yield f"evaluate.judge.key_env={judge.key_env}: the environment has no such variable; set it in your shell to the key"
    if columns.prompt is None:
        yield "evaluate.judge: the data have no prompts to answer; leave it out"
    if judge.against == "data" and columns.completion is None and columns.chosen is None:
        yield "evaluate.judge.against=data: the data have no completion and no chosen response; type evaluate.judge.against=reference"
    if judge.against == "data" and columns.label is not None:
        yield f"evaluate.judge.against=data: data.columns.label={columns.label} calls some bad; type evaluate.judge.against=reference"
    if judge.against == "reference" and experiment.stage.name == "evaluate" and experiment.evaluate.reference is None:
        yield "evaluate.judge.against=reference: evaluate.reference=null leaves it out; type evaluate.judge.against=data"


def check_harness(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Check the settings of lm-eval, without importing it."""
    settings = experiment.evaluate
    if settings.tasks and importlib.util.find_spec("lm_eval") is None:
        yield f"evaluate.tasks=[{','.join(settings.tasks)}]: are run by lm-eval: pip install -c constraints.txt -e '.[lm-eval]'"
    if settings.task_dir is None:
        return
    if not settings.tasks:
        yield "evaluate.task_dir: is read only with evaluate.tasks=[…]; leave it out"
    if "evaluate.task_dir" not in typed:
        yield "evaluate.task_dir: may only be named on the command line, because the files of a task can hold code"
    if not Path(settings.task_dir).expanduser().is_dir():
        yield f"evaluate.task_dir={settings.task_dir}: there is no such folder; name the one that holds the YAML files of your tasks"


RULES = (check_enabled, check_reference, check_shape, check_drawing, check_judge, check_harness)
