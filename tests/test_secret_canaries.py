"""Secrets that enter a run anywhere leave it nowhere: every byte of folder, store, offline W&B files and output is searched."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from experiment_runner import ROOT
from hypothesis import given
from hypothesis import strategies as st

from lexalign.config import rules, secrets

LETTERS = "aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA"
SHAPES = {
    "hugging face": f"hf_{LETTERS}",
    "github, fine-grained": f"github_pat_11ABCDEFG0{LETTERS}_{LETTERS}",
    "github": f"ghp_{LETTERS}1234",
    "gitlab": f"glpat-{LETTERS[:20]}",
    "google": f"AIzaSy{LETTERS}a",
    "json web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "slack": "xoxb-123456789012-1234567890123-" + LETTERS[:24],
    "aws, temporary": "ASIA" + LETTERS[:16].upper(),
    "aws": "AKIA" + LETTERS[:16].upper(),
    "wandb": f"wandb_v1_{LETTERS}_{LETTERS}",
    "npm": f"npm_{LETTERS}abcd",
    "openai": f"sk-proj-{LETTERS}",
    "stripe": f"sk_live_{LETTERS}",
    "pypi": f"pypi-AgEIcHlwaS5vcmc{LETTERS}",
    "sendgrid": f"SG.{LETTERS[:22]}.{LETTERS}",
    "private key": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{LETTERS}\n-----END OPENSSH PRIVATE KEY-----",
}
NAMES = (
    "HF_TOKEN",
    "DEPLOY_PAT",
    "DB_PASS",
    "MYSQL_PWD",
    "KEY_2",
    "API_KEY_OPENAI",
    "app.secret",
    "SMTP_PASSWD",
    "RESTIC_PASSPHRASE",
    "JWT",
)


@pytest.mark.parametrize("secret", SHAPES.values(), ids=SHAPES)
def test_a_token_of_any_common_shape_is_refused_and_redacted(secret):
    for text in (secret, f"token={secret}", f"https://{secret}@host/x", f"a,{secret};b", f"x_{secret}"):
        (problem,) = rules.check_secrets({"tracking": {"tags": [text]}})
        assert problem.startswith("tracking.tags[0]: looks like a token") and secret not in problem
        assert secret not in secrets.redact(text) and secrets.HIDDEN in secrets.redact(text)
    if secret.isprintable():
        assert rules.check_secrets({"model": {"revision": secret}}), "a commit may stand there, and no token"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["no shape at all", "quo'te\"d \\back\\slash", "täglich-ünter-ß", "a/b+c=d e&f"])
def test_the_value_of_a_secret_variable_is_redacted_in_every_spelling(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    for text in (value, repr(value), json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps({"a": [value]})):
        redacted = secrets.redact(f"before {text} after")
        assert redacted.startswith("before ") and redacted.endswith(" after") and secrets.HIDDEN in redacted
        assert value not in redacted and repr(value)[1:-1] not in redacted and json.dumps(value)[1:-1] not in redacted
    assert value not in json.dumps(secrets.redact_tree({"rows": [{value: (1, value)}]}), ensure_ascii=False)


def test_the_secrets_within_an_address_are_redacted(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://bob:correct%20horse@db:5432/app")
    monkeypatch.setenv("SLACK_WEBHOOK_URL", "https://hooks.example.org/services/T00000000/B00000000/XXXXcanaryXXXX")
    monkeypatch.setenv("BLOB_URL", "https://store.example.org/x?sig=0123456789abcdefCANARY&v=1")
    text = secrets.redact("correct horse, correct%20horse, services/T00000000/B00000000/XXXXcanaryXXXX, 0123456789abcdefCANARY, https://db")
    assert text == ", ".join([secrets.HIDDEN] * 4 + ["https://db"])
    assert secrets.redact("postgres://bob:correct%20horse@db:5432/app") == f"postgres://{secrets.HIDDEN}@db:5432/app"


def test_what_is_no_secret_stays(monkeypatch, tmp_path):
    (tmp_path / "key.json").write_text("{}")
    for name, value in {
        "PWD": str(tmp_path), "OLDPWD": "/somewhere/else", "SSH_AUTH_SOCK": "/tmp/ssh-abc/agent.1", "KEYBOARD_LAYOUT": "colemak-dh",
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json"), "MY_TOKEN": "finished", "TOKENIZERS_PARALLELISM": "false-or-true",
        "WANDB_BASE_URL": "http://127.0.0.1:8080/",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    text = f"finished in {tmp_path} and /somewhere/else, /tmp/ssh-abc/agent.1 colemak-dh {tmp_path / 'key.json'} false-or-true http://127.0.0.1:8080/"
    assert secrets.redact(text) == text
    assert secrets.redact("git@github.com:me/x ssh://git@host/x task-list-of-things-to-do risk-averse-people-act") == (
        "git@github.com:me/x ssh://git@host/x task-list-of-things-to-do risk-averse-people-act"
    )


def test_a_key_of_any_name_is_a_secret_once_a_judge_has_it(monkeypatch):
    monkeypatch.setattr(secrets, "_registered", set())
    secrets.register_secret("very-secret-123456")
    assert secrets.redact("Bearer very-secret-123456") == f"Bearer {secrets.HIDDEN}"


@given(st.text(max_size=60))
def test_control_characters_are_shown(text):
    shown = secrets.escape_control(text)
    assert all(secrets.is_harmless(letter) for letter in shown)
    assert secrets.escape_control(shown) == shown


def test_a_terminal_is_not_steered():
    text = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe\r\x08 ok\n\tß 漢 🎉"
    assert secrets.escape_control(text) == r"\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe\r\x08 ok" + "\n\tß 漢 🎉"


CANARIES = {
    "HF_TOKEN": f"hf_{LETTERS}canaryInTheHub",
    "MY_LAB_PASSWORD": "canary 'in' the \"lab\" \\ ünd",
    "DATABASE_URL": "postgres://bob:canaryInTheUrl@db/x",
    "PLAIN_TOKEN": "canaryInARow7",
}
SHAPED = {"a row": f"ghp_{LETTERS}canaryRow", "the diff": f"glpat-{LETTERS}canaryDiff", "the remote": "me:canaryInTheRemote"}


def make_checkout(folder: Path) -> None:
    """A copy of the code in a repository of its own, with a token in its remote and another in an uncommitted change."""
    for name in ("lexalign", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    git = ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["commit", "-qm", "all"],
        ["remote", "add", "origin", f"https://{SHAPED['the remote']}@host/x"],
    ):
        subprocess.run([*git, *words], check=True)
    with (folder / "lexalign/losses.py").open("a", encoding="utf-8") as file:
        file.write(f"\n# {SHAPED['the diff']}\n")


def read_everything(folder: Path) -> dict[str, bytes]:
    """The bytes of every file, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def find_leaks(parts: dict[str, bytes]) -> list[tuple[str, str]]:
    """(canary, place) of every canary that stands in some bytes, as text or as JSON."""
    values = [*CANARIES.values(), *SHAPED.values(), "canaryInTheUrl", "canaryInTheRemote"]
    forms = {form.encode() for value in values for form in (value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])}
    return [(form.decode(), name) for form in forms for name, content in parts.items() if form in content or form in name.encode()]


def test_canaries_of_environment_rows_diff_and_remote_leave_a_run_nowhere(tmp_path):
    code, work = tmp_path / "code", tmp_path / "work"
    code.mkdir()
    work.mkdir()
    make_checkout(code)
    texts = [*CANARIES.values(), SHAPED["a row"], "x canaryInARow7 y", "nothing"]
    rows = [{"prompt": f"Say {text} to me {number}", "completion": f"I say {text} {number}"} for number in range(4) for text in texts]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "data=instructions",
        f"data.path={data}",
        "train.max_steps=2",
        "evaluate.limit=8",
        "hardware.threads=1",
        "tracking.mode=offline",
    ]
    done = subprocess.run(
        [sys.executable, str(code / "run.py"), *words, "output_dir=out", "store=store", "verbose=true"],
        cwd=work,
        env={**os.environ, **CANARIES, "PYTHONPATH": str(code), "HOME": str(work / "home"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    parts = {"stdout": done.stdout, "stderr": done.stderr, **read_everything(work)}
    manifest = json.loads(parts["out/artifact/manifest.json"])
    assert manifest["git_commit"].endswith("+dirty")
    assert secrets.HIDDEN in parts["out/result.json"].decode() and secrets.HIDDEN.encode() in done.stdout
    assert any(name.endswith(".table.json") for name in parts) and any(name.endswith(".wandb") for name in parts), (
        "the search reaches W&B's files"
    )
    assert find_leaks(parts) == []


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("model.path=https://me:canaryInTheRemote@host/m", "model.path"),
        ("data.path=https://me:canaryInTheRemote@host/m", "data.path"),
        ("output_dir=canaryInARow7/x", "output_dir"),
        ("tracking.project=canaryInARow7", "tracking.project"),
    ],
)
def test_a_setting_with_a_password_is_refused_by_its_key_and_leaves_nothing(tmp_path, word, key):
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), word],
        cwd=tmp_path,
        env={**os.environ, **CANARIES, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 2 and key in done.stderr.decode(), done.stderr.decode()[-2000:]
    assert find_leaks({"stdout": done.stdout, "stderr": done.stderr, **read_everything(tmp_path)}) == []


WITHOUT_SECRETS = {
    "artifacts/files.py", "artifacts/fingerprint.py", "artifacts/lock.py", "cache/cache.py", "tracking/trackio_tracker.py",  # digests, ids
    "export/folder.py",  # the card, which is redacted when it is made
    "models/adapters.py",  # PEFT's settings of an adapter
    "embedded/pretrain.py", "embedded/reasoning.py", "embedded/world.py", "surveys/folder.py",  # data sets, made on request
}  # fmt: skip
"""Modules that write a file without `artifacts.files`."""


def test_there_is_one_writer():
    """Whatever else writes texts would pass secrets by the redaction."""
    others = set()
    for file in (ROOT / "lexalign").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            call = node.func if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
            if call is not None and call.attr in ("write_text", "write_bytes") and ast.unparse(call.value) != "files":
                others.add(str(file.relative_to(ROOT / "lexalign")))
    assert others <= WITHOUT_SECRETS | {"sweeps/job.py"}  # a task for the process that follows, removed when it is read


def test_names_and_texts_of_rows_do_not_steer_the_terminal(tmp_path):
    """Titles, colours, clearing, the clipboard, the direction of writing, and a column's name that forges a line of ours."""
    hostile = "\x1b]0;title\x07\x1b[2J\x1b]52;c;aGk=\x07\u202egnp\x9b5m"
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Who? {hostile} {n}", "completion": f"Me {hostile}"}) + "\n" for n in range(20)))
    columns = tmp_path / "columns.jsonl"
    columns.write_text(json.dumps({f"pro{hostile}mpt\nFAKE LINE": "a", "completion": "b"}) + "\n")
    command = [
        sys.executable,
        str(ROOT / "run.py"),
        "tracking=none",
        "data=instructions",
        "hardware.threads=1",
        f"store={tmp_path / 'store'}",
    ]
    for words in ([f"data.path={rows}", "train.max_steps=1", "evaluate.limit=4"], [f"data.path={columns}"]):
        done = subprocess.run(
            [*command, *words, f"output_dir={tmp_path / 'out'}"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        raw = [letter for letter in printed if not secrets.is_harmless(letter) and letter != "\r"]
        assert raw == [] and r"\x1b" in printed, printed[-2000:]
        assert not any(line.startswith("FAKE LINE") for line in printed.splitlines())
