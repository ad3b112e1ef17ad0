"""The W&B workspace made by code: its definition, and that it can be saved, against a server on the loopback."""

import importlib.util
import json
import sys

import pytest
from wandb_server import WandbServer

from lexalign.tracking import wandb_workspace

needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="wandb-workspaces is not installed: pip install -e '.[workspaces]'"
)
pytestmark = pytest.mark.usefixtures("own_home")


@needs_workspaces
@pytest.mark.parametrize("group", [None, "20-15-01"])
def test_the_definition_holds_what_a_sweep_is_looked_at_for(group, capsys):
    words = ["--print", "--entity", "us", "--project", "lex", "--vary", "method.beta", "seed", "--score", "after/belief_jsd"]
    assert wandb_workspace.main([*words, *(["--group", group] if group else [])]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["entity"], made["project"], made["displayName"]) == ("us", "lex", "LexAlign sweeps")
    section = made["spec"]["section"]
    panels = {one["name"]: one["panels"] for one in section["panelBankConfig"]["sections"]}
    by_beta, by_seed, importance = panels["Score by setting"]
    assert [(panel["config"]["xAxis"], panel["config"]["yAxis"]) for panel in (by_beta, by_seed)] == [
        ("config:method.value.beta", "summary:after/belief_jsd"),
        ("config:seed.value", "summary:after/belief_jsd"),
    ]
    assert importance["config"]["targetKey"] == "after/belief_jsd"
    (together,) = panels["Parallel coordinates"]
    axes = [column["accessor"] for column in together["config"]["columns"]]
    assert axes == ["config:method.value.beta", "config:seed.value", "summary:after/belief_jsd"]
    curves = [(panel["config"]["xAxis"], panel["config"]["metrics"]) for panel in panels["Learning curves"]]
    assert ("step", ["train/loss"]) in curves and {axis for axis, _ in curves} == {"step"}
    (shown,) = section["runSets"]
    wanted = {("jobType", "!=", "sweep"), *([("group", "=", group)] if group else [])}
    assert {(one["key"]["name"], one["op"], one["value"]) for one in shown["filters"]["filters"]} == wanted
    assert [key["name"] for key in shown["grouping"]] == ([] if group else ["group"])


@needs_workspaces
def test_it_is_saved_under_the_accounts_own_name(server, capsys):
    view = {"id": "VmlldzoxOg==", "name": "nw-abc-v", "type": "project-view"}
    server.answers = {
        name: lambda told: {"upsertView": {"view": {**view, "displayName": told["displayName"], "spec": told["spec"]}, "inserted": True}}
        for name in ("UpsertView2", "upsertView", "UpsertView")
    }
    assert wandb_workspace.main(["--project", "lex"]) == 0
    (sent,) = [request.variables for request in server.requests if request.operation and "psertView" in request.operation]
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("local", "lex", "LexAlign sweeps")
    assert "Score by setting" in sent["spec"] and "/local/lex?nw=abc" in capsys.readouterr().out


@needs_workspaces
def test_a_server_that_refuses_is_said(server, capsys):
    server.refuse = 401
    assert wandb_workspace.main([]) == 2
    assert capsys.readouterr().err.endswith("--print shows the definition instead\n")


@needs_workspaces
def test_without_a_key_it_says_what_to_do(monkeypatch, capsys):
    with WandbServer() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.url)
        assert wandb_workspace.main([]) == 2
        assert stub.requests == []
    assert "no key is configured" in (said := capsys.readouterr().err) and said.endswith("--print shows the definition instead\n")


def test_a_missing_package_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert wandb_workspace.main(["--print"]) == 2
    assert capsys.readouterr().err == "wandb-workspaces is not installed; type pip install -e '.[workspaces]'\n"
