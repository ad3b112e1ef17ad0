"""What every test process needs before a library reads its environment."""

import logging
import os
import subprocess

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may dial out; the tests of the download bring a hub of their own
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # several processes share the cores: waiting threads must not spin


LONGEST = (
    "end_to_end", "runs", "fast_path_training", "resume", "sweeps", "preflight", "preference_methods", "rewards", "caches", "gdpo_flow",
    "evaluate", "multirun", "wandb_sweeps", "wandb_tracker", "reproduce", "sweep_search", "hub_to_training", "compare", "memory",
    "reasoning", "report", "real_model",
    "export", "chat", "export_push",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The longest files first, so that the two processes end together (with --no-loadscope-reorder)."""
    order = {f"test_{name}.py": at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """A home of the test's own, without keys of W&B."""
    from wandb_client import home_without_keys

    with home_without_keys(tmp_path, monkeypatch) as home:
        yield home


@pytest.fixture
def said(caplog):
    """What our tracker said so far."""
    from wandb_client import Said

    caplog.set_level(logging.INFO, logger="lexalign")
    return Said(caplog)


@pytest.fixture
def server(own_home, monkeypatch):
    """A W&B server on the loopback, and a key for it."""
    from wandb_client import KEY
    from wandb_server import WandbServer

    with WandbServer() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield stub


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 7 MB; a function that gives it another size."""
    disk_ = tmp_path / "disk"
    disk_.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", disk_], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield disk_, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", disk_], check=True)
    subprocess.run(["umount", disk_], check=True)
