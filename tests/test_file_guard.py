"""No test touches the user's runs, checkout or home: what tries is refused, and the session fails by the name of the test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from experiment_runner import ROOT

TESTS = """
import os, pathlib, subprocess, sys
import pytest

CHECKOUT = pathlib.Path(__file__).parent.parent
SCRIPT = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('x')"

@pytest.fixture(scope="module")
def shared():
    pathlib.Path("multirun/.store").mkdir(parents=True)
    return pathlib.Path.cwd()

def test_good(tmp_path, shared):
    pathlib.Path("multirun").mkdir()
    pathlib.Path("multirun/result.json").write_text("{}")
    pathlib.Path.home().joinpath("mine").write_text("x")
    subprocess.run([sys.executable, "-c", SCRIPT, "own"], check=True)
    assert pathlib.Path.cwd() == tmp_path and shared != tmp_path and (tmp_path / "own").is_file()

def test_writes_a_run():
    (CHECKOUT / "multirun" / "new").mkdir()

def test_reads_the_store():
    (CHECKOUT / "multirun" / ".store" / "entry").read_text()

def test_lists_the_runs():
    os.listdir(CHECKOUT / "multirun")

def test_renames_into_the_checkout(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").rename(CHECKOUT / "a")

def test_writes_the_cache_in_another_process():
    subprocess.run([sys.executable, "-c", SCRIPT, os.environ["THE_HOME"] + "/.cache/x"], stderr=subprocess.DEVNULL)

def test_writes_source_in_a_fork():
    if (child := os.fork()) == 0:
        try:
            (CHECKOUT / "lexalign.py").write_text("x")
        finally:
            os._exit(0)
    os.waitpid(child, 0)

def test_writes_past_python():
    subprocess.run(["touch", CHECKOUT / "multirun" / "touched"], check=True)
    subprocess.run(["sleep", "0.05"], check=True)
"""
BAD = {
    "test_writes_a_run": "multirun/new (os.mkdir), which is in the user's runs",
    "test_reads_the_store": "multirun/.store/entry (open), which is in the user's runs",
    "test_lists_the_runs": "multirun (os.listdir), which is in the user's runs",
    "test_renames_into_the_checkout": "/a (os.rename), which is in the checkout",
    "test_writes_the_cache_in_another_process": ".cache/x (open), which is in the user's home",
    "test_writes_source_in_a_fork": "lexalign.py (open), which is in the checkout",
}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A checkout and a home that look like a user's, whose tests were run: the checkout, the home, and what pytest printed."""
    folder = tmp_path_factory.mktemp("user")
    checkout, home = folder / "checkout", folder / "home"
    (checkout / "multirun" / ".store").mkdir(parents=True)
    (checkout / "multirun" / ".store" / "entry").write_text("the user's")
    (home / ".cache").mkdir(parents=True)
    (checkout / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", checkout / "tests")
    shutil.copytree(ROOT / "tests" / "file_guard", checkout / "tests" / "file_guard")
    (checkout / "tests" / "test_some.py").write_text(TESTS)
    (checkout / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    (temporary := folder / "tmp").mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LEXALIGN_", "PYTEST_"))}
    environment |= {"HOME": str(home), "THE_HOME": str(home), "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "WANDB_API_KEY": "canary"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
        return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)

    return checkout, home, run


@pytest.mark.parametrize("processes", ["0", "2"])
def test_whatever_touches_the_users_files_fails_by_name(session, processes):
    checkout, home, run = session
    done = run("-n", processes)
    assert done.returncode == 1, done.stdout + done.stderr
    for name, fault in BAD.items():
        assert any(name in line and fault in line for line in done.stdout.splitlines()), (name, done.stdout)
        assert f"::{name}" in done.stdout.partition("short test summary")[2]
    past = [line for line in done.stdout.splitlines() if "multirun/touched was made" in line]
    assert len(past) == 1 and "::test_writes_past_python" in past[0], done.stdout
    assert (checkout / "multirun" / "touched").is_file(), "this alone came through"
    (checkout / "multirun" / "touched").unlink()
    assert sorted(path.name for path in (checkout / "multirun").iterdir()) == [".store"]
    assert sorted(path.name for path in checkout.iterdir()) == ["multirun", "pytest.ini", "tests"]
    assert not list((home / ".cache").iterdir())


def test_a_good_session_passes_and_leaves_nothing(session):
    checkout, home, run = session
    done = run("-k", "good")
    assert done.returncode == 0 and "1 passed" in done.stdout and "touched" not in done.stdout, done.stdout
    assert [path.name for path in home.rglob("*")] == [".cache"]
    assert not list((checkout.parent / "tmp").glob("lexalign-tests-*")), "the session's home is removed"


def test_this_session_has_no_keys_and_another_home():
    assert Path.home().parent == Path(os.environ["LEXALIGN_TEST_SESSION"]) and Path.home() != Path(os.environ["LEXALIGN_GUARD_HOME"])
    own = {"WANDB_ERROR_REPORTING"}  # switched off by our tracker, in the tests before this one
    assert not [name for name in os.environ if name.startswith("WANDB_") and name not in own]
