"""Whoever uses an artifact finds any damage of it, by bytes; inputs that change while a run or a sweep is under way are noticed."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from experiment_runner import ROOT

from lexalign.artifacts import fingerprint
from lexalign.artifacts.manifest import MANIFEST, find_damage, write_manifest
from lexalign.artifacts.result import read_result
from lexalign.config.compose import compose
from lexalign.config.paths import find_data, find_model
from lexalign.errors import ConfigError
from lexalign.models import loading


@pytest.fixture
def artifact(tmp_path) -> Path:
    """A whole model with a manifest, as stage=export writes one."""
    source = find_model("embedded:tiny").path
    assert source is not None
    folder = tmp_path / "run" / "artifact"
    shutil.copytree(source, folder)
    write_manifest(folder, {"kind": "model", "settings": {}})
    return folder


def flip_bit(path: Path, at: int) -> None:
    """Change one bit and set the times back."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"])
def test_one_bit_of_any_file_is_found_though_size_and_time_stay(artifact, name):
    path = artifact / name
    assert find_damage(artifact) is None and fingerprint.digest_file(path)
    flip_bit(path, path.stat().st_size // 2)
    assert f"{name} is not the file that was saved (sha256 differs)" in (find_damage(artifact) or "")
    with pytest.raises(ConfigError, match="sha256 differs.*train it again, or name another model"):
        loading.find_source(str(artifact), None)


def test_a_cached_digest_does_not_outlive_a_change_that_hides_its_time(artifact):
    path = artifact / "model.safetensors"
    before = fingerprint.digest_file(path)
    time.sleep(0.02)
    flip_bit(path, 100)
    assert fingerprint.digest_file(path) == fingerprint.digest_bytes(path) != before


def test_a_file_that_is_gone_cut_or_added_is_found(artifact):
    extra = artifact / "chat_template.jinja2.json"
    extra.write_text("{}")
    assert "is not among the files that were saved" in (find_damage(artifact) or "")
    extra.unlink()
    (artifact / "notes.md").write_text("a user's own notes may stand there")
    assert find_damage(artifact) is None
    (artifact / "config.json").write_bytes((artifact / "config.json").read_bytes()[:-1])
    assert "bytes instead of" in (find_damage(artifact) or "")
    (artifact / "config.json").unlink()
    assert "config.json is missing" in (find_damage(artifact) or "")


def test_a_manifest_that_names_files_outside_is_refused(artifact, tmp_path):
    import json

    from lexalign.artifacts.manifest import digest_manifest

    (tmp_path / "secret.txt").write_text("x")
    manifest = json.loads((artifact / MANIFEST).read_text())
    manifest["files"]["../../secret.txt"] = {"bytes": 1, "sha256": fingerprint.digest_bytes(tmp_path / "secret.txt")}
    del manifest["sha256"]
    (artifact / MANIFEST).write_text(json.dumps({**manifest, "sha256": digest_manifest(manifest)}))
    assert "names a file outside of the folder" in (find_damage(artifact) or "")


def test_a_damaged_tokenizer_of_another_run_is_refused(artifact):
    flip_bit(artifact / "tokenizer.json", 50)
    experiment = compose(["tracking=none", f"model.tokenizer={artifact}"]).experiment
    with pytest.raises(ConfigError, match="model.tokenizer=.*sha256 differs"):
        loading.load_model(experiment)


def test_a_large_artifact_says_what_is_read_and_at_what_rate(artifact, monkeypatch, caplog):
    monkeypatch.setattr("lexalign.artifacts.manifest.WORTH_SAYING", 1000)
    with caplog.at_level("INFO"):
        assert find_damage(artifact) is None
    assert "GB are read" in caplog.text and "GB/s): undamaged" in caplog.text


def test_rows_that_change_under_a_sweep_fail_the_later_jobs(tmp_path):
    source = find_data("embedded:tiny_sft").path
    assert source is not None
    data = shutil.copytree(source, tmp_path / "dm")
    words = ["-m", "tracking=none", "evaluate=false", "preflight=skip", "train.max_steps=2", "data=tiny_sft", f"data.path={data}"]
    sweep = tmp_path / "sweep"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words, "seed=0,1", "sweep.jobs=1", f"output_dir={sweep}", f"store={tmp_path / 'store'}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not any((sweep / number / "config.yaml").is_file() for number in "01"):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    rows = (data / "train.jsonl").read_text().splitlines(keepends=True)
    while read_result(sweep / "0") is None:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    (tmp_path / "new").write_text("".join(rows[:300]))
    (tmp_path / "new").replace(data / "train.jsonl")
    said = process.communicate(timeout=240)[0]
    states = dict(sqlite3.connect(sweep / "ledger.sqlite").execute("select number, state from jobs where number is not null").fetchall())
    assert states == {0: "finished", 1: "failed"}, said[-3000:]
    assert "its model or its data changed since the sweep was planned" in said and process.returncode == 1
