"""What makes W&B's pages of a sweep readable: tags, settings one can filter by, lineage, the sweep's own row, the agent's run."""

import json
import os
from pathlib import Path

import pytest
from wandb_client import KEY, SETTINGS, records, run_files, tracker, wandb_command
from wandb_server import WandbServer

from lexalign.artifacts.manifest import read_manifest, write_manifest
from lexalign.config.compose import compose
from lexalign.tracking import NoTracker, WandbTracker, display, record_sweep, sweep_summary
from lexalign.tracking.display import MAX_TAG

pytestmark = pytest.mark.usefixtures("own_home")
WEIGHTS = b"weights that stay on this machine"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An artifact as a run leaves it."""
    folder = tmp_path / "an artifact"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    write_manifest(folder, {"settings": {"stage": {"name": "sft"}, "method": {"name": "lora"}}})
    return folder


def links(server: WandbServer) -> list[tuple[str, str, set[str], str | None]]:
    """Name, digest, aliases and maker of each artifact the server was told of, in order."""
    told = [request.variables["input"] for request in list(server.requests) if request.operation == "CreateArtifact"]
    return [(one["artifactCollectionName"], one["digest"], {a["alias"] for a in one["aliases"]}, one["runName"]) for one in told]


def test_lineage_is_drawn_by_reference(tmp_path, server, made):
    for job, call in (("sft", "artifact"), ("align", "starts_from")):
        with tracker(tmp_path / job, name=job) as tracked:
            getattr(tracked, call)(made)
    sft, align = server.runs()
    (name, digest, aliases, maker), (name_then, digest_then, aliases_then, user) = links(server)
    assert (name, digest, aliases) == (name_then, digest_then, aliases_then) and name == "sft-lora"
    assert aliases == {"latest", read_manifest(made)["sha256"][:12]}
    assert (maker, user) == (sft, None), "the run that starts from it is taken for the one that made it"
    (use,) = [request.variables["input"] for request in server.requests if request.operation == "UseArtifact"]
    assert use["runName"] == align
    reference = json.loads(server.uploads()["manifest.json"])["contents"]
    assert {entry["ref"] for entry in reference.values()} == {(made / "manifest.json").as_uri()}
    assert not any(WEIGHTS in request.body for request in server.requests)


def test_lineage_survives_offline(tmp_path, said, made):
    with tracker(tmp_path / "out") as tracked:
        tracked.starts_from(made)
    with WandbServer() as stub:
        wandb_command(*said.sync_arguments, WANDB_API_KEY=KEY, WANDB_BASE_URL=stub.url)
        assert [name for name, *_ in links(stub)] == ["sft-lora"]
        assert "UseArtifact" in stub.operations()
    assert not any("not logged" in line for line in said.lines)


def test_nothing_is_linked_where_the_setting_says_so_or_there_is_no_manifest(tmp_path, server, made, said):
    with tracker(tmp_path / "0", link_artifacts=False) as tracked:
        tracked.artifact(made)
        tracked.starts_from(made)
    with tracker(tmp_path / "1") as tracked:
        tracked.starts_from(tmp_path)
    assert links(server) == []
    assert [run.summary["starts_from"] for run in server.runs().values()] == [str(made), str(tmp_path)]
    assert not any("not logged" in line for line in said.lines)


def test_a_hanging_server_does_not_hold_up_a_link(tmp_path, server, made, said, monkeypatch):
    monkeypatch.setattr("wandb.apis.public.Api._HTTP_TIMEOUT", 2)
    monkeypatch.setattr("lexalign.tracking.wandb_tracker.GRACE", 1.0)
    with tracker(tmp_path / "out", finish_timeout=1) as tracked:
        server.hang = lambda request: True
        tracked.starts_from(made)
    assert "did not take everything within 1 s" in said.lines[-1]


def test_tags_and_settings_can_be_filtered_by(tmp_path):
    typed = ["method=dpo", "method.beta=0.1", f"data.path={'x' * 90}", "method=dpo"]
    typed += ["output_dir=/tmp/x", "store=s", "tracking.project=p", "sweep.seeds=2", "hydra/launcher=local"]
    config = compose(["stage=align", "method=grpo", "data=tiny_sft", f"output_dir={tmp_path}"]).tree
    with WandbTracker(SETTINGS, tmp_path, config, "name", None, "align", typed):
        pass
    (run,) = records(run_files(tmp_path)[0], "run")
    long = f"data.path={'x' * 90}"[: MAX_TAG - 1] + "…"
    assert run["tags"] == ["tiny", "method=dpo", "method.beta=0.1", long]
    told = json.loads(wandb_command("leet", "inspect", "--summary", "--json", str(run_files(tmp_path)[0])))["config"]
    flat = display.flatten(told)
    assert flat["method.needs.columns"] == "prompt" and flat["method.rewards.0._target_"] == "lexalign.rewards.ExactMatch"
    assert flat["train.learning_rate"] == config["train"]["learning_rate"] and flat["seed"] == 0
    assert all(value is None or isinstance(value, (bool, int, float, str)) for value in flat.values())


def test_lists_become_one_text():
    assert display.make_filterable({"a": [1, None, "x"], "b": [], "c": [{"d": [1]}], "e": Path("/x")}) == {
        "a": "1, null, x",
        "b": "",
        "c": {"0": {"d": "1"}},
        "e": "/x",
    }
    assert len(display.make_filterable(["x" * 900])) == display.MAX_TEXT


def job(number: int, beta: str, state: str, score: float | None) -> dict:
    """A job as a ledger keeps it."""
    return {"number": number, "values": {"method.beta": beta, "method": "dpo"}, "state": state, "score": score, "seconds": 2.0} | {
        "score_name": "belief_jsd",
        "score_direction": "minimize",
        "folder": f"/{number}",
    }


JOBS = [job(0, "0.1", "finished", 0.3), job(1, "0.2", "finished", 0.2), job(2, "0.3", "failed", None), job(3, "0.4", "pruned", 0.1)]


def test_a_sweep_has_a_row_of_its_own_however_often_it_is_gone_on_with(tmp_path, server):
    facts = {"command": ["-m", "method.beta=0.1,0.2"], "swept": ["method.beta"], "identity": "ab12", "grounds": {"a": {"b": 1}}}
    for _ in range(2):
        record_sweep(WandbTracker, SETTINGS, tmp_path, group="sweep-1", rows=JOBS, facts=facts)
    ((_, run),) = server.runs().items()
    assert [run.told(key) for key in ("jobType", "groupName", "displayName")] == ["sweep", "sweep-1", "sweep sweep-1"]
    assert {key: run.config[key] for key in run.config.keys() - {"_wandb"}} == {
        "command": "-m, method.beta=0.1,0.2",
        "swept": "method.beta",
        "identity": "ab12",
    }
    values = {
        key: run.summary[key] for key in ("jobs/finished", "jobs/failed", "jobs/all", "best/score", "best/number", "score", "seconds")
    }
    assert values == {
        "jobs/finished": 2,
        "jobs/failed": 1,
        "jobs/all": 4,
        "best/score": 0.2,
        "best/number": 1,
        "score": 0.25,
        "seconds": 8.0,
    }
    table = json.loads(server.uploads()["jobs.table.json"])
    assert table["columns"] == ["number", "method.beta", "method", "state", "score", "seconds"]
    assert table["data"][0] == [0, 0.1, "dpo", "finished", 0.3, 2.0] and table["data"][2][4] is None


def test_a_summary_that_cannot_be_told_ends_nothing(tmp_path, said):
    class Broken(NoTracker):
        def table(self, name, rows):
            raise OSError("no room")

    record_sweep(Broken, SETTINGS, tmp_path, group="g", rows=JOBS, facts={})
    assert said.lines == ["The sweep was not recorded by the tracker: OSError: no room"]
    record_sweep(NoTracker, SETTINGS, tmp_path, group="g", rows=JOBS, facts={})
    assert sweep_summary.summarize_jobs([]) == {"jobs/all": 0, "seconds": 0.0}


@pytest.mark.parametrize(("how", "agents"), [("alone", True), ("parent", False), ("job", False), ("summary", True)])
def test_behind_the_agent_its_run_is_the_process_s_own(tmp_path, server, monkeypatch, how, agents):
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("wandb_version: 1\nmethod.beta:\n  value: 0.1\n")
    told = {"WANDB_RUN_ID": "agents01", "WANDB_SWEEP_ID": "sweep001", "WANDB_SWEEP_PARAM_PATH": str(parameters)}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    if how == "summary":
        record_sweep(WandbTracker, SETTINGS, tmp_path / "out", group="sweep-1", rows=JOBS, facts={})
    else:
        group = {"alone": None, "parent": "parents", "job": "2026/1"}[how]
        with tracker(tmp_path / "out", name="method.beta=0.1", group=group) as tracked:
            tracked.log(1, {"train/loss": 1.0})
    ((run_id, run),) = server.runs().items()
    assert (run_id == "agents01", run.told("sweep") == "sweep001", "method.beta" in run.config) == (agents, agents, agents)
    assert {name: os.environ[name] for name in told} == told
