"""`lexalign doctor`: quick, light, complete, and silent about what a key is."""

import json
import subprocess
import sys
import time
from importlib import metadata

import pytest

from lexalign.commands import doctor
from lexalign.config import hardware

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def findings(monkeypatch):
    return lambda: {finding.name: finding for finding in doctor.examine_machine()}


def test_it_answers_within_two_seconds_and_imports_nothing_heavy(tmp_path):
    code = (
        "import json, sys; from lexalign.cli import main; sys.argv = ['lexalign', 'doctor']\n"
        "try: main()\nexcept SystemExit as end: print(json.dumps([end.code, sorted(sys.modules)]))"
    )
    seconds = []
    for _ in range(3):  # the machine may be busy
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        seconds.append(time.monotonic() - began)
        if seconds[-1] < 2:
            break
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code in (0, 1) and min(seconds) < 2, (seconds, done.stderr)
    assert {"torch", "numpy", "transformers", "trl", "wandb"} & set(modules) == set()
    assert not list(tmp_path.iterdir())


def test_it_names_what_there_is(findings):
    found = findings()
    assert found["python"].value.startswith(sys.version.split()[0])
    assert found["torch"].value == metadata.version("torch")
    assert found["hardware=auto"].value == hardware.resolve_device("auto")
    assert {"bf16", "memory", "disk for runs", "extra lm-eval", "tested versions", "key of the hub", "key of W&B"} <= set(found) or (
        hardware.resolve_device("auto") == "mps"
    )


def test_a_key_is_found_and_not_shown(findings, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("hf_aaaabbbbccccddddeeee")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://user:swordfish@hub.example")
    doctor.main([])
    said = capsys.readouterr().out
    assert "in WANDB_API_KEY" in said and f"in {tmp_path / 'token'}" in said and "HF_ENDPOINT=" in said
    assert not [secret for secret in (KEY, "hf_aaaabbbbccccddddeeee", "swordfish") if secret in said]


def test_a_missing_and_an_old_package_are_wrong(findings, monkeypatch, capsys):
    versions = {"trl": None, "peft": "0.1.0"}
    real = doctor.get_version
    monkeypatch.setattr(doctor, "get_version", lambda name: versions.get(name, real(name)))
    assert findings()["trl"].problem.startswith("type: pip install 'trl")
    assert findings()["peft"].problem.startswith("lexalign needs peft>=0.21")
    assert doctor.main([]) == 1
    assert "trl: type: pip install 'trl" in capsys.readouterr().out


def test_another_version_than_the_tested_one_is_said(findings, monkeypatch):
    real = doctor.get_version
    monkeypatch.setattr(doctor, "get_version", lambda name: "99.1" if name == "wandb" else real(name))
    assert findings()["  wandb"].value.startswith("99.1 (tested with ")


def test_a_build_without_cuda_beside_gpus_is_wrong(findings, monkeypatch):
    monkeypatch.setattr(hardware, "count_cuda_devices", lambda: 2)
    monkeypatch.setattr(hardware, "is_torch_cpu_build", lambda: True)
    monkeypatch.setattr(doctor, "describe_cuda_device", lambda number: ("H200", 141 * 10**9, (9, 0)))
    found = findings()
    assert "cannot use the GPUs" in found["torch"].problem and found["cuda:1"].value == "H200, 141.0 GB, compute capability 9.0"


def test_a_folder_that_cannot_be_written_is_wrong(findings, monkeypatch, tmp_path):
    (tmp_path / "multirun").write_text("")
    monkeypatch.chdir(tmp_path)
    assert "is a file" in findings()["disk for runs"].problem


def test_words_it_does_not_know_are_refused():
    with pytest.raises(SystemExit, match="2"):
        doctor.main(["--quick"])
