"""Secrets stay where they are: refused in settings, redacted in what a run writes and says."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from command_line_problems import tree_of
from experiment_runner import ROOT, python_path

from lexalign.config import rules, secrets

CANARIES = {
    "HF_TOKEN": "hf_" + "aB3canary" * 3,
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef89abcdef",
    "OPENAI_API_KEY": "sk-canary" + "x" * 24,
    "GITHUB_TOKEN": "ghp_" + "zCanary" * 5,
    "AWS_ACCESS_KEY": "AKIA" + "CANARY1234567890",
    "MY_LAB_PASSWORD": "no shape at all, yet secret",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


def places(node, path=()):
    """Every place of a tree where a text could stand."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from places(value, (*path, key))
        yield (*path, "anything_new")
    else:
        yield path


def with_value(node, path, value):
    """The tree with a value at a place."""
    key, *rest = path
    return {**node, key: with_value(node.get(key) or {}, rest, value) if rest else value}


def test_a_thousand_settings_that_hold_a_secret_are_refused_without_repeating_it():
    chance, tree = random.Random(0), tree_of("stage=align method=gdpo")
    spots = [path for path in places(tree) if path[-1] not in ("revision", "tokenizer_revision")]
    assert len(spots) > 100
    for number in range(1000):
        secret = list(CANARIES.values())[number % len(CANARIES)]
        text = f"{chance.choice(['', 'x ', 'https://me:', 'a/b@'])}{secret}{chance.choice(['', ' y', '@host', '.json'])}"
        value = chance.choice([text, [text], ["a", text], {"b": text}, [{"c": [text]}]])
        path = chance.choice(spots)
        (problem,) = rules.check_secrets(with_value(tree, path, value))
        assert problem.startswith(".".join(path)) and "looks like a token or key" in problem and secret not in problem


def test_the_settings_themselves_hold_none():
    assert rules.check_secrets(tree_of("stage=align method=gdpo")) == []


@pytest.mark.parametrize("secret", CANARIES.values())
def test_a_message_is_redacted_and_stays_readable(secret):
    assert secrets.redact(f"{secret} failed, {secret}!") == f"{secrets.HIDDEN} failed, {secrets.HIDDEN}!"


def test_a_password_in_an_address_is_redacted():
    assert secrets.redact("GET https://me:my-own@host/x:y@z failed") == f"GET https://{secrets.HIDDEN}@host/x:y@z failed"


def test_what_is_no_secret_stays():
    text = "commit 1123456789abcdef0123456789abcdef89abcdee, hf_transfer, sk-learn, https://host/a:b@c"
    assert secrets.redact(text) == text


LEAK = """
import os
def leak(row):
    print("never printed", file=open(os.devnull, "w"))
    raise ValueError(" and ".join(os.environ[name] for name in {names!r}))
"""


def test_a_run_that_fails_with_secrets_on_its_tongue_leaves_none(tmp_path):
    (tmp_path / "mylab.py").write_text(LEAK.format(names=list(CANARIES)))
    command = ["stage=align", "model=tiny", "tracking=wandb", "tracking.mode=offline", "data.converter=mylab.leak", "extensions=[mylab]"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *command, "output_dir=out", "store=store"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": python_path(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and "the converter failed: ValueError" in done.stderr and secrets.HIDDEN in done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "mylab.py" and path.suffix != ".pyc"]
    assert {"run.log", "result.json"} <= {path.name for path in written}
    everything = [done.stdout.encode(), done.stderr.encode(), *(str(path).encode() for path in written), *map(Path.read_bytes, written)]
    assert "the converter failed: ValueError" in (tmp_path / "out/run.log").read_text()  # the search reaches what was said
    assert [name for name, secret in CANARIES.items() if any(secret.encode() in part for part in everything)] == []
