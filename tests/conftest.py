"""What every test process needs before a library reads its environment, and what keeps tests away from the user's files.

A session has a folder of its own: its home, and the notes of `file_guard`. Each module and each test has a working folder, so `multirun/`
and its `.store` are never the user's. tests/test_file_guard.py shows that it holds.
"""

import logging
import os
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
GUARD = CHECKOUT / "tests" / "file_guard"
SESSION = "LEXALIGN_TEST_SESSION"
"""The session's folder; set in the processes that belong to the session."""
OF_THE_USER = ("WANDB_", "HF_", "HUGGING_FACE_", "TRANSFORMERS_", "TRACKIO_", "XDG_CACHE", "XDG_CONFIG", "XDG_DATA", "NETRC", "TORCH_HOME")
"""How the names of variables begin that lead to the user's accounts and caches."""
SLACK = 0.02
"""Seconds by which a file's time may differ from the clock's."""

sys.path.insert(0, str(GUARD))
import file_guard  # noqa: E402


def set_up_environment() -> None:
    """Give this process, and those that it starts, a home without the user's keys and caches."""
    if SESSION not in os.environ:
        home = os.path.expanduser("~")
        folder = Path(tempfile.mkdtemp(prefix="lexalign-tests-"))
        (folder / "home").mkdir()
        for name in [name for name in os.environ if name.startswith(OF_THE_USER)]:
            del os.environ[name]
        os.environ |= {
            SESSION: str(folder),
            file_guard.ROOT: str(CHECKOUT),
            file_guard.HOME: home,
            file_guard.ALLOWED: os.pathsep.join([str(folder), os.path.realpath(tempfile.gettempdir())]),
            file_guard.NOTES: str(folder / "refused"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(GUARD), os.environ.get("PYTHONPATH")])),
            "PYTHONUSERBASE": site.getuserbase(),  # what the user installed there is found from the other home too
            "HOME": str(folder / "home"),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        }
        os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(CHECKOUT / ".hypothesis"))
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may dial out; the tests of the download bring a hub of their own
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # several processes share the cores: waiting threads must not spin
    file_guard.install()


set_up_environment()


class SessionGuard:
    """Fails the session, by the name of the test, where something was touched that is the user's."""

    def __init__(self) -> None:
        self.before = file_guard.list_runs(str(CHECKOUT))
        self.phases: list[tuple[float, float, str]] = []
        self.problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.phases.append((report.start, report.stop, report.nodeid))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.problems = [*read_refusals(), *self.find_changes()]
        if self.problems:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def find_changes(self) -> list[str]:
        """What changed in the user's `multirun/` and at the top of the checkout, with the tests that ran at that moment."""
        problems, after = [], file_guard.list_runs(str(CHECKOUT))
        for path in sorted(path for path in self.before.keys() | after.keys() if self.before.get(path) != after.get(path)):
            if path in after and os.path.dirname(path) == str(CHECKOUT) and is_tracked(path):
                continue  # a checkout or a merge of yours
            try:
                moment = os.lstat(path if path in after else os.path.dirname(path)).st_mtime
            except FileNotFoundError:
                moment = 0.0
            tests = sorted({name for start, stop, name in self.phases if start - SLACK <= moment <= stop + SLACK}) or [
                "no test ran at that moment"
            ]
            change = "changed" if path in self.before and path in after else "made" if path in after else "removed"
            problems.append(f"{' or '.join(tests)}: {path} was {change} (a run of your own in this checkout looks the same)")
        return problems

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.problems:
            terminalreporter.section("tests that touched the user's files", red=True)
            for problem in self.problems[:50]:
                terminalreporter.line(problem)
            terminalreporter.line(f"{len(self.problems)} in all. A test works in its tmp_path only.")


def is_tracked(path: str) -> bool:
    """Whether git knows a path, or something below it."""
    done = subprocess.run(["git", "-C", str(CHECKOUT), "ls-files", "--", path], capture_output=True, text=True)
    return done.returncode == 0 and bool(done.stdout)


def read_refusals() -> list[str]:
    """What `file_guard` refused in this session: lines of a test's name and what it did."""
    file = Path(os.environ[file_guard.NOTES])
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SessionGuard(), "session-guard")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[SESSION], ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def module_folder(tmp_path_factory):
    """The working folder of what a module's tests share. What its runs hid from libraries is not hidden from the next module's."""
    folder = tmp_path_factory.mktemp("module")
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)
    if sys.modules.get("wandb", sys) is None:  # see lexalign/tracking/no_tracker.py
        del sys.modules["wandb"]


@pytest.fixture(autouse=True)
def working_folder(request, tmp_path, monkeypatch):
    """A test runs in its tmp_path: `multirun/` and its `.store` are its own. It fails where it touched the user's, in whatever process."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    refusals = [line for line in read_refusals() if line.startswith(f"{request.node.nodeid}: ")]
    assert not refusals, "it touched what is the user's:\n" + "\n".join(refusals)


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
    folder = tmp_path / "disk"
    folder.mkdir()
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mount = [*root, "mount", "-t", "tmpfs", "-o", f"size=7m,uid={os.getuid()}", "tmpfs", folder]
    if (root and shutil.which("sudo") is None) or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder, lambda size: subprocess.run([*root, "mount", "-o", f"remount,size={size}", folder], check=True)
    subprocess.run([*root, "umount", folder], check=True)
