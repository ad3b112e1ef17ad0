"""A project that is moved goes on: its parents are found again, and what a model was trained from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lexalign.config.paths import find_moved

ROOT = Path(__file__).resolve().parent.parent
WORDS = [
    "tracking=none", "train.max_steps=2", "evaluate.limit=8", "evaluate.samples=1", "preflight=skip", "hardware.threads=1",
    "model.parent_overrides=['train.max_steps=2','evaluate=false']",
]  # fmt: skip


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "run.py"), *words], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A project in which an align run and its parent were trained, under another name since."""
    place = tmp_path_factory.mktemp("projects")
    (place / "before").mkdir()
    done = run(place / "before", "stage=align", "method=dpo", "output_dir=al", *WORDS)
    assert done.returncode == 0, done.stderr
    shutil.move(place / "before", place / "after")
    return place / "after"


def test_the_parent_is_reused(moved):
    before = list(moved.glob("multirun/.store/parents/*"))
    done = run(moved, "stage=align", "method=ipo", "output_dir=second", *WORDS)
    assert done.returncode == 0, done.stderr
    assert "reusing" in done.stderr and list(moved.glob("multirun/.store/parents/*")) == before


def test_a_run_is_evaluated_beside_what_it_was_trained_from(moved):
    done = run(moved, "stage=evaluate", "model.path=al", "data=tiny_pairs", "tracking=none", "evaluate.limit=8", "output_dir=measured")
    assert done.returncode == 0, done.stderr
    measured = json.loads((moved / "measured" / "result.json").read_text())["metrics"]
    then = json.loads((moved / "al" / "result.json").read_text())["metrics"]
    assert measured["before"]["reward_accuracy"] == then["before"]["reward_accuracy"]


def test_the_store_names_no_absolute_path(moved):
    for note in moved.glob("multirun/.store/keys/*"):
        assert not note.read_text().startswith("/")


def test_a_folder_is_found_by_the_longest_end_of_its_path(tmp_path):
    (tmp_path / "new" / "multirun" / "a" / "artifact").mkdir(parents=True)
    (tmp_path / "new" / "a" / "artifact").mkdir(parents=True)
    near = tmp_path / "new" / "multirun" / "b"
    assert find_moved("/old/multirun/a/artifact", near) == tmp_path / "new" / "multirun" / "a" / "artifact"
    assert find_moved("/old/multirun/c/weights", near) is None
    assert find_moved("/artifact", tmp_path / "new" / "a") is None
