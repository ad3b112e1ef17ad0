"""The example of docs/adding-a-method.md, file by file as it stands there: it composes, trains, and its loss is its formula."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch
from experiment_runner import ROOT

PAGE = ROOT / "docs/adding-a-method.md"
BLOCK = re.compile(r'```\w+ title="([\w./]+)"\n(.*?)```', re.S)
LINES = 20


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The files of the page in a folder of their own."""
    files = dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    assert len(files) == 4
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "mylab/__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "mylab"]:
        del sys.modules[name]


def test_the_example_trains(lab):
    """As the page says to type it, with words that make it short."""
    (command,) = re.findall(r"```bash\npython run.py (.*?)\n```", PAGE.read_text(encoding="utf-8"))
    short = (
        "model=tiny", "train.max_steps=3", "train.log_steps=1", "train.learning_rate=1e-3", "train.batch_size=4", "data.limit=12",
        "evaluate.enabled=false", "tracking=none", "hardware.threads=1", f"store={lab}/store", f"output_dir={lab}/run",
    )  # fmt: skip
    path = os.pathsep.join([str(lab), str(ROOT), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(ROOT / "run.py"), *shlex.split(command), *short]
    done = subprocess.run(words, capture_output=True, text=True, cwd=lab, env={**os.environ, "PYTHONPATH": path}, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (lab / "run/metrics.jsonl").read_text().splitlines()]
    first, *_, last = [line for line in lines if "loss" in line]
    # At step 0 the margin is 0, so the loss is that of the lengths alone.
    assert first["rewards/margins"] == 0 and first["loss"] != pytest.approx(0.6931, abs=1e-4) and "longer" in first
    assert last["loss"] != first["loss"] and last["rewards/margins"] > 0


def test_the_class_is_short_and_its_loss_is_its_formula(lab):
    from mylab.losses import length_dpo_loss

    text = (lab / "mylab/methods.py").read_text()
    assert len(text[text.index("class") :].splitlines()) <= LINES
    loss = length_dpo_loss(torch.tensor([2.0]), torch.tensor([3.0]), beta=0.1, penalty=0.02)
    assert loss.item() == pytest.approx(-torch.log(torch.sigmoid(torch.tensor(0.2 - 0.06))).item())
