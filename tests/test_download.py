"""stage=download against a hub on the loopback: what arrives, and where. What goes wrong is in test_download_faults.py, what is
refused in test_download_refusals.py."""

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from experiment_runner import python_path
from hub_client import MODEL, WEIGHTS, contents, environment, experiment, get, point_client, start
from hub_server import HubServer, git_id, sha256

from lexalign.errors import ConfigError, HubError
from lexalign.stages import download

ROWS = {"README.md": b"---\n---\n", "data/train.jsonl": b'{"text": "a"}\n', "data/train.parquet": WEIGHTS[:100_000]}


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def hub(home, monkeypatch):
    with HubServer() as server:
        point_client(monkeypatch, server.url, home)
        yield server


def test_model_and_data_set_arrive_whole_and_recorded(hub, home, capsys):
    commit, data_commit = hub.push("org/m", MODEL), hub.push("org/d", ROWS, kind="dataset")
    result = download.run(experiment(model="org/m", data="org/d"), home, None)
    model, data = result.details["model"], result.details["dataset"]
    assert (result.status, result.artifact) == ("finished", model["folder"])
    assert contents(model["folder"]) == MODEL and contents(data["folder"]) == ROWS
    assert (model["commit"], data["commit"]) == (commit, data_commit)
    assert {file["path"]: (file["size"], file["sha256"]) for file in model["files"]} == {
        name: (len(content), sha256(content)) for name, content in MODEL.items()
    }
    assert result.counts["model_bytes"] == model["bytes"] == sum(map(len, MODEL.values()))
    assert json.loads(json.dumps(dataclasses.asdict(result)))["details"]["dataset"]["repo"] == "org/d"
    shown = capsys.readouterr().out
    assert f"model org/m at {commit}" in shown and "model.safetensors" in shown and "3.0 MB" in shown
    assert not list(home.rglob("*.incomplete"))


def test_second_run_fetches_no_content(hub):
    hub.push("org/m", MODEL)
    get()
    sent = dict(hub.sent)
    assert contents(get().folder) == MODEL
    assert hub.sent == sent


def test_only_one_kind(hub, home):
    hub.push("org/m", MODEL)
    hub.push("org/d", ROWS, kind="dataset")
    wanted = experiment(model="org/m", data="org/d", only="datasets")
    result = download.run(wanted, home, None)
    assert list(result.details) == ["dataset"] and result.artifact == result.details["dataset"]["folder"]
    assert not hub.count("info", path="/models/")


def test_patterns_choose_files(hub):
    hub.push("org/m", {**MODEL, "model.bin": b"other"})
    found = get(include=["*.json", "model.*"], exclude=["*.bin"])
    assert contents(found.folder) == {name: MODEL[name] for name in ("config.json", "model.safetensors")}
    assert [file.path for file in found.files] == ["config.json", "model.safetensors"]
    assert "model.bin" not in hub.sent
    with pytest.raises(HubError, match=r"no file for download.include=\['\*.gguf'\].* it has 4: config.json, model.bin"):
        get(include=["*.gguf"])


def test_dry_run_shows_files_and_bytes_and_writes_nothing(hub, home, capsys):
    commit = hub.push("org/m", MODEL)
    result = download.run(experiment(model="org/m", dry_run=True), home, None)
    shown = capsys.readouterr().out
    assert (result.status, result.artifact, result.details["model"]["commit"]) == ("planned", None, commit)
    assert result.counts == {"model_files": 3, "model_bytes": sum(map(len, MODEL.values()))}
    assert "model.safetensors 3.0 MB sub/notes" in " ".join(shown.split()) and "still to fetch 3.0 MB" in " ".join(shown.split())
    assert not home.exists() and not hub.sent and not hub.count("resolve")
    get(include=["*.safetensors"])
    download.run(experiment(model="org/m", dry_run=True), home, None)
    shown = " ".join(capsys.readouterr().out.split())
    assert "3.0 MB already here" in shown and "still to fetch 29 B" in shown


def test_revision_is_pinned_and_a_moved_branch_is_told(hub, home, caplog):
    first = hub.push("org/m", MODEL)
    hub.push("org/m", MODEL, branch="v1")
    get()
    second = hub.push("org/m", {**MODEL, "config.json": b'{"model_type": "gpt2"}'})
    assert (get(revision="v1").commit, get(revision=first).commit) == (first, first)
    with caplog.at_level(logging.INFO):
        planned = get(dry_run=True)
    moved = f"model org/m: main has moved from {first} to {second}"
    assert planned.commit == second and moved in caplog.text
    assert [file.path for file in planned.files if not file.is_present] == ["config.json"]
    caplog.clear()
    found = get()
    assert (found.commit, found.revision) == (second, None) and moved in caplog.text  # the dry run has not noted the move
    assert (found.folder / "config.json").read_bytes() == b'{"model_type": "gpt2"}'
    assert hub.sent["model.safetensors"] == len(WEIGHTS)  # the same content in both commits
    assert contents(get(revision=first).folder) == MODEL


def test_a_branch_that_moves_meanwhile_does_not_mix_commits(hub, monkeypatch):
    first = hub.push("org/m", MODEL)
    take_fault = hub.take_fault

    def move(request):
        if request.place == "tree" and len(hub.repositories["models/org/m"].commits) == 1:
            hub.push("org/m", {"config.json": b"{}", "model.safetensors": b"new"})
        return take_fault(request)

    monkeypatch.setattr(hub, "take_fault", move)
    found = get()
    assert found.commit == first and contents(found.folder) == MODEL


def test_output_dir_holds_the_files_and_follows_a_new_commit(hub, tmp_path):
    hub.push("org/m", MODEL)
    out = tmp_path / "out"
    assert contents(get(output_dir=out).folder) == contents(out) == MODEL
    newer = {**MODEL, "model.safetensors": WEIGHTS[::-1], "config.json": b"{}"}
    commit = hub.push("org/m", newer)
    found = get(output_dir=out)
    assert found.commit == commit and contents(out) == newer
    assert hub.sent["model.safetensors"] == 2 * len(WEIGHTS)
    sent = dict(hub.sent)
    assert contents(get(output_dir=out).folder) == newer and hub.sent == sent
    (out / "model.safetensors").unlink()
    hub.push("org/m", MODEL)
    assert contents(get(output_dir=out).folder) == MODEL
    assert hub.sent["model.safetensors"] == 3 * len(WEIGHTS)


def test_output_dir_takes_what_the_cache_has(hub, tmp_path):
    hub.push("org/m", MODEL)
    get()
    assert contents(get(output_dir=tmp_path / "out").folder) == MODEL
    assert hub.sent["model.safetensors"] == len(WEIGHTS)


def test_offline_uses_the_cache_and_asks_nobody(hub, home, tmp_path, monkeypatch):
    commit = hub.push("org/m", MODEL)
    online, copied = get(), get(output_dir=tmp_path / "out")
    asked = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = get()
    assert offline.commit == commit and contents(offline.folder) == MODEL
    assert offline.details() == online.details()
    assert get(output_dir=tmp_path / "out").details() == copied.details()
    with pytest.raises(HubError, match="model org/other at main is not in .*, or not completely, and HF_HUB_OFFLINE is set: unset it"):
        get(repo="org/other")
    blob = (online.folder / "model.safetensors").resolve()
    blob.write_bytes(WEIGHTS[:-1] + b"?")
    with pytest.raises(HubError, match="model.safetensors is damaged .*: unset HF_HUB_OFFLINE"):
        get()
    (online.folder / "config.json").unlink()
    with pytest.raises(HubError, match="not completely"):
        get()
    assert len(hub.requests) == asked


def test_long_listings_are_read_to_the_end(hub):
    files = {f"part-{number:03}.txt": b"%d" % number for number in range(45)}
    hub.push("org/d", files, kind="dataset")
    assert contents(get(repo="org/d", kind="dataset").folder) == files
    assert hub.count("tree") >= 3


def test_a_terminal_shows_progress(hub, home):
    hub.push("org/m", MODEL)
    screen, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    run, shown = start(hub, home, stderr=terminal), b""
    os.close(terminal)
    with contextlib.suppress(OSError):  # nobody writes there any more
        while more := os.read(screen, 4096):  # as it comes: a terminal that nobody reads holds its writer up
            shown += more
    os.close(screen)
    assert run.wait(timeout=60) == 0
    shown = shown.decode()
    assert "model.safetensors: 100%" in shown and "3.00M/3.00M" in shown and "Fetching 3 files: 100%" in shown


@pytest.mark.parametrize("source", ["environment", "login"])
def test_token_opens_a_gated_model_and_stays_with_the_hub(hub, home, monkeypatch, source, caplog):
    caplog.set_level(logging.INFO)
    hub.push("org/m", MODEL)
    hub.repositories["models/org/m"].gated_for = "hf_canaryOfATest"
    if source == "environment":
        monkeypatch.setenv("HF_TOKEN", "hf_canaryOfATest")
    else:
        home.mkdir()
        (home / "token").write_text("hf_canaryOfATest")
    assert contents(get().folder) == MODEL
    assert all("authorization" not in request.headers for request in hub.requests if request.place == "store")
    assert hub.count("store") == 1 and "signature" not in caplog.text


def test_nothing_to_fetch_and_two_for_one_folder_are_errors(home):
    with pytest.raises(ConfigError, match="nothing to fetch: model.path=embedded:tiny .* type model.path=owner/name"):
        download.run(experiment(model="embedded:tiny"), home, None)
    with pytest.raises(ConfigError, match="nothing to fetch"):
        download.run(experiment(data="org/d", only="models"), home, None)
    with pytest.raises(ConfigError, match="is one folder.*download.only=models"):
        download.run(experiment(model="org/m", data="org/d", output_dir="x"), home, None)


def test_stage_imports_nothing_heavy():
    code = "import sys, lexalign.stages.download; print([m for m in ('torch', 'huggingface_hub', 'httpx2') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": python_path()}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


LOAD = """
import json, sys, huggingface_hub
from transformers import AutoModel, AutoTokenizer
for cache in (sys.argv[1], None):
    huggingface_hub.constants.HF_HUB_OFFLINE = cache is None
    model = AutoModel.from_pretrained("org/tiny", cache_dir=cache)
    tokens = AutoTokenizer.from_pretrained("org/tiny", cache_dir=cache)("b a")["input_ids"]
    print(json.dumps([model.wte.weight[0, :2].tolist(), tokens]))
"""


def test_from_pretrained_finds_what_was_fetched(hub, home, tmp_path):
    """First straight from this server, which shows that the server is good; then offline, in the cache that the stage filled."""
    hub.push("org/tiny", tiny_model())
    get(repo="org/tiny")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "fresh")], env=environment(hub.url, home), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[[0.0, 1.0], [2, 1]]] * 2
    assert hub.count("store", method="GET") == 2


def tiny_model() -> dict[str, bytes]:
    """A GPT-2 of two numbers a token, and a tokenizer of three words."""
    import numpy
    from safetensors.numpy import save
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    config = {"model_type": "gpt2", "n_embd": 4, "n_layer": 1, "n_head": 1, "vocab_size": 3, "n_positions": 8}
    weights = save({"wte.weight": numpy.arange(12, dtype=numpy.float32).reshape(3, 4)}, metadata={"format": "pt"})
    return {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": words.to_str().encode(),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "?"}).encode(),
        "model.safetensors": weights,
    }


def test_names_of_the_cache_are_the_hub_s(hub, home):
    """Blobs lie under the names that the client gives them, so that the client finds them."""
    hub.push("org/m", MODEL)
    get()
    blobs = {path.name for path in (home / "hub" / "models--org--m" / "blobs").iterdir()}
    assert blobs == {sha256(WEIGHTS), git_id(MODEL["config.json"]), git_id(MODEL["sub/notes.txt"])}
    assert os.path.islink(home / "hub" / "models--org--m" / "snapshots" / get().commit / "model.safetensors")
