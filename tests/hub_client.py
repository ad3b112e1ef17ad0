"""The stage and its client, pointed at the hub on the loopback."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from experiment_runner import python_path

from lexalign.hub import fetch

WEIGHTS = hashlib.shake_256(b"weights").digest(3_000_000)
MODEL = {"config.json": b'{"model_type": "llama"}', "sub/notes.txt": b"notes\n", "model.safetensors": WEIGHTS}
JOB = """
import json, logging, sys
from pathlib import Path
from types import SimpleNamespace
from lexalign.errors import LexAlignError
from lexalign.stages.download import run
logging.basicConfig(level=logging.INFO)
experiment = json.loads(sys.argv[1], object_hook=lambda found: SimpleNamespace(**found))
try:
    print(run(experiment, Path(), None).artifact)
except LexAlignError as error:
    logging.getLogger("job").exception("failed")
    sys.exit(f"{type(error).__name__}: {error}")
"""


def environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    """The variables for a process of its own that takes `endpoint` for the hub and keeps everything under `home`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, **quiet, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": python_path(), **more}


def point_client(monkeypatch, endpoint: str, home: Path) -> None:
    """The same for this process, whose client may have read its variables long ago."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(_http, "_HUB_ORIGINS", frozenset({_http._url_origin(endpoint)}))


@contextlib.contextmanager
def dead_address() -> Iterator[str]:
    """An address on the loopback at which nobody answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # held, but not listening
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def get(**changes):
    """`fetch` of the model org/m with short pauses."""
    settings = dict(repo="org/m", kind="model", revision=None, include=[], exclude=[], output_dir=None, workers=2, retries=2)
    return fetch(**{**settings, "first_pause": 0.01, **changes})


def experiment(*, model=None, revision=None, data=None, data_revision=None, dry_run=False, **changes) -> SimpleNamespace:
    """As much of an experiment as the stage reads."""
    settings = dict(only="all", include=[], exclude=[], output_dir=None, workers=2, retries=2)
    return SimpleNamespace(
        stage=SimpleNamespace(name="download"),
        dry_run=dry_run,
        model=SimpleNamespace(path=model, revision=revision),
        data=SimpleNamespace(path=data, revision=data_revision, format="auto" if data is None else "hub"),
        download=SimpleNamespace(**{**settings, **changes}),
    )


def contents(folder) -> dict[str, bytes]:
    """The files under a folder, without the client's own notes."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if ".cache" not in path.parts}


def leftovers(home) -> list[str]:
    """What lies in the cache but for notes and locks."""
    kept = ("blobs", "snapshots")
    return [path.name for path in home.rglob("*") if path.is_file() and any(part in kept for part in path.parts)]


def start(hub, home, *, stderr=subprocess.PIPE, **more) -> subprocess.Popen:
    """The stage in a process of its own, fetching org/m."""
    settings = json.dumps(experiment(model="org/m"), default=vars)
    command = [sys.executable, "-c", JOB, settings]
    pipes = dict(stdout=subprocess.PIPE, stderr=stderr, text=True)
    # A shell's background job, and so all its children, ignore SIGINT; the one here is to hear it.
    return subprocess.Popen(command, env=environment(hub.url, home, **more), preexec_fn=hear_interrupts, **pipes)


def hear_interrupts() -> None:
    """Let the child take SIGINT as a terminal's foreground job does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
