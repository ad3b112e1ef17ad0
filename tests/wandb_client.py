"""A W&B of a test's own: a home without keys, what a tracker said, and what its files hold."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lexalign.config.schema import Tracking
from lexalign.tracking import WandbTracker

KEY = "canarykey" * 5
SETTINGS = Tracking(
    target="lexalign.tracking.WandbTracker",
    project="lex",
    entity=None,
    mode="auto",
    group=None,
    name=None,
    tags=["tiny"],
    link_artifacts=True,
    folder=None,
    init_timeout=2,
    finish_timeout=2,
)


@contextmanager
def home_without_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of the test's own, without keys; nothing of wandb may be left running."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    # Set and removed, so that pytest takes back what the tracker sets.
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    monkeypatch.delenv("WANDB_ERROR_REPORTING")
    home = tmp_path / "home"
    home.mkdir()
    for name, folder in {"HOME": "", "NETRC": "netrc", "WANDB_CONFIG_DIR": "config", "WANDB_CACHE_DIR": "cache"}.items():
        monkeypatch.setenv(name, str(home / folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    yield home
    assert "WANDB_SERVICE" not in os.environ, "wandb's service outlived its run"


class Said:
    """What our tracker said so far; pytest hears wandb's own log too."""

    def __init__(self, caplog: pytest.LogCaptureFixture):
        self._caplog = caplog

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records if record.name.startswith("lexalign.")]

    @property
    def sync_arguments(self) -> list[str]:
        """The arguments of the one `wandb sync` command that was printed."""
        (command,) = re.findall(r"wandb (sync .*)", "\n".join(self.lines))
        return shlex.split(command)


def tracker(
    out_dir: Path, *, name: str = "method=dpo", group: str | None = "sweep-1", typed: Sequence[str] = (), **changes: Any
) -> WandbTracker:
    """A tracker as a run would make it."""
    config = {"seed": 1, "method": {"beta": 0.1}}
    return WandbTracker(dataclasses.replace(SETTINGS, **changes), out_dir, config, name, group, "align", typed)


def run_files(out_dir: Path) -> list[Path]:
    """The `.wandb` files of the finished attempts, oldest first."""
    return sorted((out_dir / "wandb").glob("*run-*/*.wandb"))


def wandb_command(*arguments: str, **environment: str) -> str:
    """The output of `wandb ...`, as a user would type it; in the home, since it leaves a log where it runs."""
    home = Path(os.environ["HOME"])
    environment = {**os.environ, "WANDB_ERROR_REPORTING": "false", **environment}
    command = [sys.executable, "-m", "wandb", *arguments]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def records(file: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind in a `.wandb` file."""
    lines = [json.loads(line) for line in wandb_command("leet", "inspect", "--json", str(file)).splitlines() if line.startswith("{")]
    return [line[kind] for line in lines if line["type"] == kind]
