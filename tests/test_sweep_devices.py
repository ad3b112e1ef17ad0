"""A job of a sweep trains on the device that was planned, or not at all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from experiment_runner import ROOT

DRIVER = ROOT / "tests" / "cuda_driver"
COMPILER = shutil.which("cc")


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    """A folder with a stand-in for CUDA's driver, whose cards are gone in a forked process, as a real driver's are."""
    if COMPILER is None:
        pytest.skip("no C compiler on PATH (Debian: apt-get install gcc)")
    folder = tmp_path_factory.mktemp("driver")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", DRIVER / "driver.c"], check=True)
    return folder


def start(driver: Path, folder: Path, device: str, how: str) -> str:
    """Start a job of a sweep as the sweep does; what its process prints, after its exit code."""
    (folder / "0").mkdir()
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    env |= {"LD_LIBRARY_PATH": str(driver), "PYTHONPATH": f"{ROOT}{os.pathsep}{DRIVER}"}
    words = [sys.executable, str(DRIVER / "start_jobs.py"), str(folder), device, how]
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_job_for_a_gpu_finds_its_card(driver, tmp_path):
    """The server that others are forked from has started CUDA; a job for a GPU has an interpreter of its own."""
    assert start(driver, tmp_path, "cuda", "as_planned").split() == ["0", "runs", "on", "cuda"]


def test_a_job_that_does_not_find_its_card_is_refused(driver, tmp_path):
    """Forked from that server it finds no card; hardware.device=auto would then come to the CPU, without a word."""
    said = start(driver, tmp_path, "cuda", "forked")
    assert said.startswith("2 ") and "the sweep planned this job for cuda, and its process would use cpu" in said
    assert "CUDA_VISIBLE_DEVICES=1, 0 cards found" in said and "runs on" not in said
