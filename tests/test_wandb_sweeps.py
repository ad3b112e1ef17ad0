"""W&B's own sweeps with run.py as their program: the manual's YAML, `wandb sweep` and `wandb agent`, against a server on the loopback."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line_problems import problems_of, said
from experiment_runner import ROOT, World, python_path, result_of
from wandb_server import ENTITY

SWEEP = "sweep001"
SHORT = ["train.max_steps=2", "data.limit=24", "evaluate=false", "preflight=skip", "hardware.threads=1"]
AGENT = "from wandb import wandb_agent; wandb_agent.Agent.POLL_INTERVAL = 0.5; from wandb.cli.cli import cli; cli()"
"""`wandb …`, asking for orders more often than every five seconds."""


class Controller:
    """The part of W&B that keeps a sweep and tells its agents what to run, one run after the other."""

    def __init__(self, settings: list[dict[str, Any]]):
        self.settings = settings
        self.config = ""
        self.asked: list[str] = []

    def answers(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        """GraphQL operations and what to answer to each."""
        return {
            "UpsertSweep": self.keep,
            "SweepWithRuns": lambda told: {
                "project": {"sweep": {"id": "s", "name": SWEEP, "state": "RUNNING", "config": self.config, "runs": {"edges": []}}}
            },
            "CreateAgent": lambda told: {"createAgent": {"agent": {"id": "agent"}}},
            "Heartbeat": lambda told: {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(self.orders(told))}},
        }

    def keep(self, told: dict[str, Any]) -> dict[str, Any]:
        """A sweep is made, or changed."""
        self.config = told["config"]
        project = {"id": "p", "name": told["projectName"], "entity": {"id": "e", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": SWEEP, "project": project}, "configValidationWarnings": []}}

    def orders(self, told: dict[str, Any]) -> list[dict[str, Any]]:
        """What an agent is to do now: nothing while it runs something, else the next point, and to leave after the last."""
        if json.loads(told["runState"]):
            return []
        if len(self.asked) == len(self.settings):
            return [{"type": "exit"}]
        self.asked.append(f"agentrun{len(self.asked)}")
        values = {key: {"value": value} for key, value in self.settings[len(self.asked) - 1].items()}
        program = yaml.safe_load(self.config)["program"]
        return [{"type": "run", "run_id": self.asked[-1], "program": program, "args": values}]


def readme_sweep() -> dict[str, Any]:
    """The sweep that the page on tracking shows."""
    page = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(program: run\.py\n.*?)```", page, flags=re.DOTALL)
    return yaml.safe_load(text)


def wandb_says(folder: Path, *words: str) -> str:
    """The output of `wandb …`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python_path(), "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run([sys.executable, "-c", AGENT, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_readme_s_sweep_is_one_of_ours():
    sweep = readme_sweep()
    typed = [word for word in sweep["command"] if "=" in word]
    for key, parameter in sweep["parameters"].items():
        for value in parameter.get("values", [parameter.get("min")]):
            assert problems_of([*typed, f"{key}={value}"]) == []


def test_an_agent_runs_our_command(tmp_path, server, monkeypatch):
    sweep = readme_sweep()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    out = tmp_path / "runs"
    parent = "model.parent_overrides=[" + ",".join(f"'{word}'" for word in SHORT) + "]"
    words = [*SHORT, parent, f"store={tmp_path / 'store'}", f"output_dir={out}", "tracking.project=lex"]
    sweep |= {"program": str(ROOT / "run.py"), "command": [*sweep["command"], *words]}
    sweep["parameters"]["data.limit"] = {"values": [None, 24]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    points = [{"method.beta": 0.2}, {"model.revision": None, "method.beta": True}]
    controller = Controller(points)
    server.answers = controller.answers()

    assert f"wandb agent {ENTITY}/lex/{SWEEP}" in wandb_says(tmp_path, "sweep", "-p", "lex", "-e", ENTITY, "sweep.yaml")
    printed = wandb_says(tmp_path, "agent", f"{ENTITY}/lex/{SWEEP}")

    assert controller.asked == ["agentrun0", "agentrun1"]
    assert "2 problems in the settings; nothing was run or written" in printed
    assert "model.revision=None: is Python's word; type model.revision=null" in printed and "method.beta=true" in printed
    runs = {name: run for name, run in server.runs().items() if run.upserts}
    (parent_id,) = runs.keys() - {"agentrun0"}  # the refused one told nobody
    own, before = runs["agentrun0"], runs[parent_id]
    assert (own.told("sweep"), own.told("jobType"), own.told("groupName"), own.exit_code) == (SWEEP, "align", None, 0)
    assert own.told("displayName").startswith("stage=align method=") and "method.beta=0.2" in own.told("displayName")
    assert own.config["method.beta"] == 0.2 and own.config["method"]["beta"] == 0.2 and own.config["seed"] == 0
    assert (before.told("sweep"), before.told("jobType"), before.told("groupName"), before.exit_code) == (None, "sft", "parents", 0)
    (use,) = [request.variables["input"] for request in server.requests if request.operation == "UseArtifact"]
    assert use["runName"] == "agentrun0"
    assert result_of(out)["status"] == "finished"


@pytest.mark.slow
def test_a_sweep_of_ours_behind_the_agent_leaves_its_run_alone(tmp_path, server):
    """`python run.py -m …` as an agent's command: the jobs are runs beside the agent's, which is for the sweep's summary."""
    told = {"WANDB_RUN_ID": "agents01", "WANDB_SWEEP_ID": SWEEP, "WANDB_PROJECT": "lex"}
    done = World(tmp_path).type("-m", *SHORT, "seed=3", "output_dir=sweep", "store=store", env=told)
    assert done.returncode == 0, done.stderr
    ((_, job),) = [(name, run) for name, run in server.runs().items() if name != "agents01"]
    assert (job.told("groupName"), job.told("sweep"), job.config["seed"], job.exit_code) == ("sweep", None, 3, 0)


@pytest.mark.parametrize("typed", ["data.limit=None", "model.revision=None", "train.max_tokens=None", "train.stop_after=None"])
def test_none_is_told_to_be_null(typed):
    key = typed.split("=")[0]
    assert said(problems_of(["stage=align", typed]), f"{typed}: is Python's word; type {key}=null")
