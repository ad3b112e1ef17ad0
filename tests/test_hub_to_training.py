"""From the hub to a trained model on the command line: a download experiment as the parent of an sft on a hub data set."""

import json

import pytest
from experiment_runner import World, result_of
from hub_client import environment
from hub_server import HubServer

from lexalign.config.paths import EMBEDDED

FEW = ("tracking=none", "hardware.threads=1", "train.max_steps=2", "train.max_length=64", "evaluate.limit=4", "evaluate.max_new_tokens=8")
DOWNLOAD = """# @package _global_
defaults:
  - override /stage: download
model:
  path: org/tiny
download:
  only: models
"""
SFT = """# @package _global_
defaults:
  - override /stage: sft
  - override /method: lora
  - override /data: instructions
model:
  path: null
  parent: mine/download
data:
  path: org/questions
  format: hub
  eval_split: test
  eval_fraction: null
"""


@pytest.fixture
def hub():
    """A hub with the embedded model and its sft rows as repositories."""
    with HubServer() as server:
        server.push("org/tiny", {path.name: path.read_bytes() for path in (EMBEDDED / "tiny").iterdir()})
        rows = EMBEDDED / "data" / "tiny_sft"
        server.push(
            "org/questions", {f"data/{split}.jsonl": (rows / f"{split}.jsonl").read_bytes() for split in ("train", "test")}, kind="dataset"
        )
        yield server


def test_download_is_the_parent_of_an_offline_sft(hub, tmp_path):
    world = World(tmp_path)
    experiments = tmp_path / "conf" / "experiment" / "mine"
    experiments.mkdir(parents=True)
    (experiments / "download.yaml").write_text(DOWNLOAD)
    (experiments / "sft.yaml").write_text(SFT)
    env = environment(hub.url, tmp_path / "hf", HF_HUB_OFFLINE="0")
    done = world.type("--config-dir", "conf", "experiment=mine/sft", "output_dir=first", *FEW, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    first = result_of(tmp_path / "first")
    parent = json.loads((next((tmp_path / "multirun" / ".store" / "parents").iterdir()) / "result.json").read_text())
    assert first["status"] == "finished" and parent["stage"] == "download"
    assert len(parent["details"]["model"]["commit"]) == 40
    offline = {**env, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    again = world.type("--config-dir", "conf", "experiment=mine/sft", "output_dir=second", "seed=1", *FEW, env=offline)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "reusing" in again.stderr and result_of(tmp_path / "second")["status"] == "finished"


def test_download_alone(hub, tmp_path):
    world = World(tmp_path)
    done = world.type(
        "stage=download",
        "model.path=org/tiny",
        "output_dir=run",
        "tracking=none",
        env=environment(hub.url, tmp_path / "hf", HF_HUB_OFFLINE="0"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "model.safetensors" in done.stdout
    assert result_of(tmp_path / "run")["details"]["model"]["repo"] == "org/tiny"
    absent = world.type(
        "stage=download",
        "model.path=org/absent",
        "download.retries=0",
        "tracking=none",
        env=environment(hub.url, tmp_path / "hf", HF_HUB_OFFLINE="0"),
    )
    assert absent.returncode == 4 and "org/absent" in absent.stderr and "Traceback" not in absent.stderr
