"""lm-eval on models of ours, on a task made of local files: `pip install -e '.[lm-eval]'`; skips where that is not installed."""

import importlib.util
import json

import pytest
from command_line_problems import problems_of, said
from experiment_runner import World

from lexalign.config.paths import EMBEDDED
from lexalign.errors import ConfigError

installed = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: gold
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("harness"))


@pytest.fixture(scope="module")
def tasks(world):
    """Which of two answers fits a question about the valley's people."""
    folder = world.folder / "tasks"
    folder.mkdir()
    rows = [json.loads(line) for line in (EMBEDDED / "data/tiny_sft/test.jsonl").read_text().splitlines()][:20]
    docs = [
        {"question": row["prompt"], "choices": [row["completion"], rows[at - 7]["completion"]], "gold": 0} for at, row in enumerate(rows)
    ]
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (folder / "valley.yaml").write_text(TASK.format(name="valley", file=folder / "docs.jsonl"))
    return folder


@installed
def test_a_task_of_local_files_before_and_after_sft(world, tasks):
    result, folder = world.run(
        "train.max_steps=60", "evaluate.limit=4", "evaluate.draws=0", "hardware.threads=1", "evaluate.tasks=[valley]",
        f"evaluate.task_dir={tasks}",
    )  # fmt: skip
    name = "lm_eval/valley/acc"
    before, after = result.metrics["before"][name], result.metrics["after"][name]
    assert after > before and result.n[name] == 20
    kept = json.loads((folder / "measurements.json").read_text())["before"][name]
    assert sum(kept["values"]) / 20 == before and set(kept["values"]) <= {0, 1}
    # lm-eval states the sample standard error of the mean.
    assert kept["stderr"] == pytest.approx((before * (1 - before) / 19) ** 0.5)
    # The artifact, loaded anew by stage=evaluate, gives what the adapter gave at the end of training.
    again, _ = world.run(
        "stage=evaluate", f"model.path={folder}", "evaluate.reference=null", "evaluate.limit=4", "evaluate.draws=0", "evaluate.samples=0",
        "hardware.threads=1", "evaluate.tasks=[valley]", f"evaluate.task_dir={tasks}",
    )  # fmt: skip
    assert again.metrics["after"][name] == after


@installed
def test_an_unknown_task_is_refused_before_a_model_is_loaded(world, tasks, monkeypatch):
    monkeypatch.setattr("lexalign.models.loading.load_model", lambda experiment: pytest.fail("a model was loaded"))
    monkeypatch.setattr("lexalign.evaluation.harness.list_named_tasks", lambda folder: frozenset({"vally"}))  # or 14,000 files are read
    with pytest.raises(ConfigError, match="evaluate.tasks: lm-eval has no task vally; did you mean valley"):
        world.run("evaluate.tasks=[vally]", f"evaluate.task_dir={tasks}")


def test_without_lm_eval_the_tasks_are_refused_by_name(tasks, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "lm_eval" else found(name, *more))
    problems = problems_of(["evaluate.tasks=[valley]", f"evaluate.task_dir={tasks}"])
    assert said(problems, "evaluate.tasks=[valley]", "pip install -c constraints.txt -e '.[lm-eval]'") and len(problems) == 1


def test_a_folder_of_tasks_is_named_on_the_command_line_only(tmp_path, tasks, monkeypatch):
    """A task's file can name functions; an experiment that people share must not bring its own."""
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more, found=importlib.util.find_spec: found("json" if name == "lm_eval" else name, *more)
    )
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/theirs.yaml").write_text(f"# @package _global_\nevaluate:\n  tasks: [valley]\n  task_dir: {tasks}\n")
    problems = problems_of(["--config-dir", str(tmp_path), "experiment=theirs"])
    assert said(problems, "evaluate.task_dir: may only be named on the command line")
    assert problems_of(["evaluate.tasks=[valley]", f"evaluate.task_dir={tasks}"]) == []
