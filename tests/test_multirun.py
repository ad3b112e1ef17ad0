"""A sweep as a user types it: folders, failures, exit code, and one W&B group."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from experiment_runner import World, result_of

FEW = ("train.max_steps=2", "data.limit=16", "evaluate.limit=4", "hardware.threads=1", "train.max_length=128")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> dict[str, str]:
    """An environment without keys, and with canaries where secrets live."""
    folder = tmp_path_factory.mktemp("home")
    own = {
        "HOME": folder,
        "NETRC": folder / "netrc",
        "WANDB_CONFIG_DIR": folder / "config",
        "WANDB_CACHE_DIR": folder / "cache",
        "XDG_DATA_HOME": folder / "data",
    }
    return {**{name: str(path) for name, path in own.items()}, "HF_TOKEN": "hf_canaryCanaryCanary0123456789", "WANDB_MODE": "offline"}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, home):
    """`python run.py -m stage=align method=dpo,gdpo method.beta=0.05,0.1 seed=0,1`, shortened."""
    world = World(tmp_path_factory.mktemp("sweep"))
    done = world.type(
        "-m", "stage=align", "method=dpo,gdpo", "method.beta=0.05,0.1", "seed=0,1", "model=tiny", "output_dir=sweep", *FEW, env=home
    )
    return done, world.folder / "sweep"


def summary_of(job: Path) -> dict:
    """The W&B run that a job left, as wandb's own reader sees it."""
    (file,) = job.glob("wandb/offline-run-*/*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    done = subprocess.run([wandb, "leet", "inspect", "--summary", "--json", str(file)], capture_output=True, text=True, env=os.environ)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_eight_jobs_eight_folders(sweep):
    done, folder = sweep
    assert done.returncode == 0, done.stderr[-3000:]
    results = [result_of(folder / str(number)) for number in range(8)]
    assert [result["method"] for result in results] == ["dpo"] * 4 + ["gdpo"] * 4
    assert all(result["status"] == "finished" for result in results)
    assert len({result["key"] for result in results}) == 8
    assert len({result["artifact"] for result in results}) == 8


@pytest.mark.slow
def test_one_group_named_by_overrides(sweep):
    _, folder = sweep
    runs = [summary_of(folder / str(number)) for number in range(8)]
    text = [json.dumps(run) for run in runs]
    assert all("sweep" in run for run in text)
    assert "method.beta=0.05" in text[0] and "seed=0" in text[0] and "method=dpo" in text[0]
    assert "method.beta=0.1" in text[7] and "seed=1" in text[7] and "method=gdpo" in text[7]


@pytest.mark.slow
def test_no_secret_anywhere(sweep, home):
    _, folder = sweep
    for path in folder.rglob("*"):
        if path.is_file():
            assert home["HF_TOKEN"].encode() not in path.read_bytes(), path


def test_one_failure_leaves_the_others(tmp_path, home):
    world = World(tmp_path)
    done = world.type(
        "-m", "model=tiny", "adapter.target_modules=[q_proj],[nonsense],[v_proj]", "tracking=none", "output_dir=sweep", *FEW, env=home
    )
    assert done.returncode == 1
    results = [result_of(tmp_path / "sweep" / str(number)) for number in range(3)]
    assert [result["status"] for result in results] == ["finished", "failed", "finished"]
    assert "nonsense" in results[1]["error"]
    assert "Traceback" in (tmp_path / "sweep" / "1" / "run.log").read_text()
    assert "job 1: " in done.stderr and "no linear layer 'nonsense'" in done.stderr


def test_typo_in_one_point_stops_the_sweep_before_it_starts(tmp_path):
    done = World(tmp_path).type("-m", "seed=0,1,2,x", "output_dir=sweep")
    assert done.returncode == 2 and "seed=x" in done.stderr
    assert not any(tmp_path.iterdir())
