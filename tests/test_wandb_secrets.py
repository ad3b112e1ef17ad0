"""What W&B gets to see of a run: our config, and no secret of the machine it runs on."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from experiment_runner import python_path
from wandb_server import WandbServer

SECRETS = {
    "key": "canarykey" * 5,
    "environment": "hf_canaryInTheEnvironment",
    "argv": "hf_canaryInTheArguments",
    "diff": "canaryInTheDiff",
    "remote": "canaryInTheRemote",
    "console": "canaryOnTheConsole",
    "program": "canaryInTheProgram",
}
MARKER = "marker-in-the-config"
PROBE = """
import sys
from pathlib import Path
from lexalign.config.schema import Tracking
from lexalign.tracking import wandb_tracker
if sys.argv[2] == "careless":
    import wandb
    wandb_tracker.make_private_settings = lambda settings: wandb.Settings(finish_timeout=5)
settings = Tracking(
    target="", project="lex", entity=None, mode="auto", group=None, name=None, tags=[], link_artifacts=True,
    folder=None, init_timeout=5, finish_timeout=5
)
with wandb_tracker.WandbTracker(settings, Path(sys.argv[1]), {"model": "MARKER"}, "name", "group", "sft") as tracker:
    print("SECRET")
    tracker.log(1, {"train/loss": 1.0})
    tracker.summary({"after/accuracy": 1.0})
    tracker.table("samples", [{"prompt": "MARKER"}])
    tracker.artifact(Path("artifact"))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with a token in its remote and another in an uncommitted change."""
    folder = tmp_path / "repository"
    folder.mkdir()
    probe = folder / "probe.py"
    probe.write_text("")
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.invalid"]
    remote = f"https://user:{SECRETS['remote']}@example.invalid/r.git"
    for command in (["init", "-q"], ["remote", "add", "origin", remote], ["add", "."], [*identity, "commit", "-q", "-m", "m"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    text = PROBE.replace("MARKER", MARKER).replace("SECRET", SECRETS["console"])
    probe.write_text(f"{text}# {SECRETS['diff']} {SECRETS['program']}\n")
    return folder


def run_probe(repository: Path, url: str, how: str) -> subprocess.CompletedProcess[str]:
    """The probe in a process of its own, with secrets where users have them."""
    home = repository.parent / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        "HOME": str(home),
        "NETRC": str(home / "netrc"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "PYTHONPATH": python_path(),
        "WANDB_BASE_URL": url,
        "WANDB_API_KEY": SECRETS["key"],
        "HF_TOKEN": SECRETS["environment"],
    }
    if how == "offline":
        environment["WANDB_MODE"] = "offline"
    command = [sys.executable, "probe.py", str(repository.parent / "out"), how, f"hub.token={SECRETS['argv']}"]
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=60, check=True)


def traces(tmp_path: Path, server: WandbServer) -> Iterator[bytes]:
    """Every byte that was written or sent, but for the header that carries the key."""
    for folder in ("out", "home"):
        for path in (tmp_path / folder).rglob("*"):
            yield str(path).encode()
            if path.is_file():
                yield path.read_bytes()
    for request in server.requests:
        headers = {name: value for name, value in request.headers.items() if name != "Authorization"}
        yield f"{request.method} {request.path} {headers}".encode()
        yield request.body


def seen(traces: list[bytes]) -> set[str]:
    """The secrets in these traces, as they are or as the Authorization header encodes them."""
    coded = {name: base64.b64encode(f"api:{secret}".encode()).decode() for name, secret in SECRETS.items()}
    return {name for name, secret in SECRETS.items() for form in (secret, coded[name]) if any(form.encode() in t for t in traces)}


@pytest.mark.parametrize("how", ["online", "offline"])
def test_no_secret_is_written_or_sent(tmp_path, repository, how):
    with WandbServer() as server:
        done = run_probe(repository, server.url, how)
        found = list(traces(tmp_path, server))
        assert bool(server.requests) == (how == "online")
    assert seen(found) == set()
    assert seen([done.stderr.encode()]) == set()
    # The search does reach what was written.
    (file,) = (tmp_path / "out").glob("wandb/*run-*/*.wandb")
    assert MARKER.encode() in file.read_bytes()


def test_the_search_finds_what_careless_settings_leak(tmp_path, repository):
    with WandbServer() as server:
        run_probe(repository, server.url, "careless")
        assert seen(list(traces(tmp_path, server))) >= {"argv", "console"}


def test_no_tracker_imports_no_wandb(tmp_path):
    program = """
import sys
from pathlib import Path
from lexalign.tracking import NoTracker
with NoTracker(None, Path("out"), {}, "name", None, "sft") as tracker:
    tracker.log(1, {"train/loss": 1.0})
    tracker.summary({"after/accuracy": 1.0})
    tracker.table("samples", [{"prompt": "a"}])
    tracker.artifact(Path("artifact"))
heavy = {"wandb", "torch", "transformers"} & sys.modules.keys()
assert not heavy, heavy
"""
    environment = os.environ | {"PYTHONPATH": python_path()}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, timeout=60, check=True)
    assert not list(tmp_path.iterdir())
