"""What is measured, and settings of the measurement that nothing would read."""

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
"""Settings of stage=evaluate, and what stands for each where something is trained."""


def check_enabled(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    stage, chosen = experiment.stage.name, experiment.evaluate
    if stage not in MEASURING or experiment.data.path is None:
        return
    if stage == "evaluate":
        if not chosen.enabled:
            yield "evaluate.enabled=false: stage=evaluate would have nothing to do; leave it out"
        return
    if chosen.enabled and is_nothing_held_out(experiment):
        yield f"evaluate.enabled=true: there is nothing held out to measure on; {HOLD_OUT}, or type evaluate.enabled=false"
    if not chosen.enabled:
        read = {"evaluate.enabled"}
        if experiment.train is not None and experiment.train.eval_steps is not None:
            read.add("evaluate.batch_size")
        for key in sorted(key for key in typed - read if key.startswith("evaluate.")):
            yield f"{key}: is not read with evaluate.enabled=false; leave one of them out"


def check_reference(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """The settings that training has elsewhere."""
    stage, chosen = experiment.stage.name, experiment.evaluate
    if stage in ("sft", "align"):
        for name, instead in OWN.items():
            if f"evaluate.{name}" in typed:
                yield f"evaluate.{name}: is read by stage=evaluate, not by stage={stage}; {instead}, or leave it out"
    if stage != "evaluate":
        return
    if chosen.reference not in (None, "auto"):
        place = find_model(chosen.reference)
        if place.kind in ("missing", "file"):
            problem = place.problem or "a model is a hub id, a folder, a run or a .gguf file"
            yield f"evaluate.reference={chosen.reference}: {problem}; name another model, or type evaluate.reference=null for none"
    if "evaluate.beta" in typed and chosen.beta is not None:
        if experiment.data.columns.chosen is None and experiment.data.columns.label is None:
            yield "evaluate.beta: scales the rewards of pairs, and data.columns.chosen names none; leave it out"
        elif chosen.reference is None:
            yield "evaluate.beta: scales rewards against a reference, and evaluate.reference=null leaves it out; leave one of them out"


def check_shape(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Columns that evaluate and export, which have no method to need them, cannot do without."""
    stage = experiment.stage.name
    if stage not in ("evaluate", "export") or experiment.data.path is None:
        return
    columns = experiment.data.columns
    starts = [name for name in ("text", "messages", "prompt") if getattr(columns, name) is not None]
    if len(starts) != 1:
        named = f"names {' and '.join(starts)} at once" if starts else "names none"
        yield f"data.columns: stage={stage} reads text, messages or prompts, and it {named}; set the others to null"
    for name, other in (("chosen", "rejected"), ("rejected", "chosen"), ("belief", "chosen"), ("label", "completion")):
        if getattr(columns, name) is not None and getattr(columns, other) is None:
            yield f"data.columns.{other}=null: data.columns.{name} means nothing without it; name the column of both"
    for name in ("completion", "chosen"):
        if getattr(columns, name) is not None and columns.prompt is None:
            yield f"data.columns.prompt=null: data.columns.{name} answers a prompt; name its column"


def check_drawing(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Settings of what is drawn where nothing is."""
    if experiment.stage.name not in MEASURING or experiment.data.path is None:
        return
    chosen, columns = experiment.evaluate, experiment.data.columns
    if columns.belief is None and "evaluate.belief_samples" in typed:
        yield "evaluate.belief_samples: the data have no beliefs to sample; leave it out"
    for name in ("draws", "draw_prompts", "samples"):
        if f"evaluate.{name}" in typed and columns.prompt is None and getattr(chosen, name):
            yield f"evaluate.{name}: the data have no prompts to answer; leave it out"
    if "evaluate.draw_prompts" in typed and not chosen.draws:
        yield "evaluate.draw_prompts: is not read with evaluate.draws=0; leave one of them out"
    drawn = columns.prompt is not None and (chosen.draws or (columns.belief is not None and chosen.belief_samples))
    if "evaluate.seed" in typed and not drawn:
        yield "evaluate.seed: no response is drawn here; leave it out"


def check_judge(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    chosen, columns = experiment.evaluate.judge, experiment.data.columns
    if experiment.stage.name not in MEASURING or experiment.data.path is None:
        return
    if chosen.url is None:
        for key in sorted(key for key in typed if key.startswith("evaluate.judge.")):
            yield f"{key}: is read only with evaluate.judge.url=<where the judge is>; leave it out"
        return
    if not re.fullmatch(r"https?://[^/@\s?#]+(/[^@\s?#]*)?", chosen.url):
        yield f"evaluate.judge.url={URL_USER.sub('//…@', chosen.url)}: expected http(s)://host/path, as in http://localhost:8000/v1"
    if chosen.model is None:
        yield "evaluate.judge.model=null: the endpoint serves models by name; type evaluate.judge.model=<its name>"
    if chosen.key_env is not None and not os.environ.get(chosen.key_env):
        yield f"evaluate.judge.key_env={chosen.key_env}: the environment has no such variable; set it in your shell to the key"
    if columns.prompt is None:
        yield "evaluate.judge: the data have no prompts to answer; leave it out"
    if chosen.against == "data" and columns.completion is None and columns.chosen is None:
        yield "evaluate.judge.against=data: the data have no completion and no chosen response; type evaluate.judge.against=reference"
    if chosen.against == "data" and columns.label is not None:
        yield f"evaluate.judge.against=data: data.columns.label={columns.label} calls some bad; type evaluate.judge.against=reference"
    if chosen.against == "reference" and experiment.stage.name == "evaluate" and experiment.evaluate.reference is None:
        yield "evaluate.judge.against=reference: evaluate.reference=null leaves it out; type evaluate.judge.against=data"


def check_harness(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """lm-eval is looked for, not imported."""
    chosen = experiment.evaluate
    if chosen.tasks and importlib.util.find_spec("lm_eval") is None:
        yield f"evaluate.tasks=[{','.join(chosen.tasks)}]: are run by lm-eval: pip install -c constraints.txt -e '.[lm-eval]'"
    if chosen.task_dir is None:
        return
    if not chosen.tasks:
        yield "evaluate.task_dir: is read only with evaluate.tasks=[…]; leave it out"
    if "evaluate.task_dir" not in typed:
        yield "evaluate.task_dir: may only be named on the command line, because the files of a task can hold code"
    if not Path(chosen.task_dir).expanduser().is_dir():
        yield f"evaluate.task_dir={chosen.task_dir}: there is no such folder; name the one that holds the YAML files of your tasks"


RULES = (check_enabled, check_reference, check_shape, check_drawing, check_judge, check_harness)
