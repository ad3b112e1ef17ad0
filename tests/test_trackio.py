"""`tracking=trackio`: what its database holds afterwards, that nothing leaves the machine, and that a run outlives it."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line_problems import problems_of, said
from experiment_runner import World, python_path
from hub_server import HubServer
from wandb_client import SETTINGS

from lexalign.errors import ConfigError
from lexalign.tracking import TrackioTracker, record_sweep

needs_trackio = pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None, reason="trackio is not installed: pip install -e '.[trackio]'"
)
PROBE = """
import os, sys
from pathlib import Path
dialled = []
sys.addaudithook(lambda event, args: dialled.append(str(args[1])) if event == "socket.connect" else None)
from lexalign.config.schema import Tracking
settings = Tracking(
    target="", project="lex", entity=None, mode=None, group=None, name=None, tags=[], link_artifacts=True, folder=sys.argv[1],
    init_timeout=None, finish_timeout=None,
)
if sys.argv[2] == "careless":
    os.environ["TRACKIO_DIR"] = sys.argv[1]
    import trackio
    trackio.init(project="lex", name="name", embed=False).finish()
else:
    from lexalign.tracking import TrackioTracker
    with TrackioTracker(settings, Path(sys.argv[1]) / "out", {"a": 1}, "name", "group", "sft") as tracker:
        tracker.log(1, {"train/loss": 1.0})
        tracker.summary({"after/accuracy": 1.0})
        tracker.table("samples", [{"prompt": "a"}])
print("DIALLED", [place for place in dialled if "127.0.0.1" in place or "." in place])
"""


def take_modules(package: str) -> dict[str, Any]:
    """The modules of a package that this process has imported, taken out of `sys.modules`."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == package}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """trackio's folder. It is read when trackio is imported, so what another module's tests have imported is put aside."""
    before = os.environ.get("TRACKIO_DIR")
    aside = take_modules("trackio")
    yield tmp_path_factory.mktemp("pages")
    take_modules("trackio")
    sys.modules.update(aside)
    os.environ.pop("TRACKIO_DIR", None)
    if before is not None:
        os.environ["TRACKIO_DIR"] = before


def tracker(
    pages: Path, out_dir: Path, *, project: str = "lex", name: str = "method.beta=0.1", group: str | None = "sweep-1"
) -> TrackioTracker:
    """A tracker as a run would make it."""
    settings = dataclasses.replace(SETTINGS, project=project, folder=str(pages))
    config = {"_target_": "x", "method": {"beta": 0.1, "needs": {"columns": ["prompt", "chosen"]}}}
    return TrackioTracker(settings, out_dir, config, name, group, "align", ["method.beta=0.1"])


def runs(project: str) -> list[dict[str, Any]]:
    """What trackio's database holds: each run's name, group, settings and logged rows, oldest first."""
    from trackio.sqlite_storage import SQLiteStorage

    found = []
    for record in SQLiteStorage.get_run_records(project):
        which = {"run": record["name"], "run_id": record["id"]}
        config, rows = SQLiteStorage.get_run_config(project, **which), SQLiteStorage.get_logs(project, **which)
        found.append({**record, "config": config, "rows": rows})
    return found


def values(rows: list[dict[str, Any]], name: str) -> list[tuple[int, Any]]:
    """Step and value of one metric, in the order of logging."""
    return [(row["step"], row[name]) for row in rows if name in row]


@needs_trackio
def test_a_run_is_read_back(tmp_path, pages, capsys):
    with tracker(pages, tmp_path, project="back") as tracked:
        tracked.summary({"before/accuracy": 0.5})
        tracked.log(5, {"train/loss": 2.0})
        tracked.log(10, {"train/loss": 1.0})
        tracked.summary({"after/accuracy": 0.75, "score": 0.75})
        tracked.table("samples", [{"prompt": "a?", "before": "x"}, {"prompt": "b?", "after": "y"}])
    (run,) = runs("back")
    assert (run["name"], run["config"]["_Group"], run["config"]["_Username"]) == ("method.beta=0.1", "sweep-1", None)
    assert run["config"].items() >= {"method.beta": 0.1, "method.needs.columns": "prompt, chosen", "job_type": "align"}.items()
    assert run["config"]["tags"] == "tiny, method.beta=0.1" and run["config"]["target_"] == "x"
    assert values(run["rows"], "train/loss") == [(5, 2.0), (10, 1.0)] and values(run["rows"], "before/accuracy") == [(0, 0.5)]
    assert values(run["rows"], "after/accuracy") == [(10, 0.75)] and values(run["rows"], "finished") == [(10, 1)]
    ((_, table),) = values(run["rows"], "samples")
    assert table["_value"] == [{"prompt": "a?", "before": "x", "after": None}, {"prompt": "b?", "before": None, "after": "y"}]
    assert capsys.readouterr() == ("", "")


@needs_trackio
def test_an_interrupted_run_goes_on_as_the_same_run(tmp_path, pages):
    for attempt in range(3):
        try:
            with tracker(pages, tmp_path, project="again") as tracked:
                tracked.log(attempt, {"train/loss": 1.0})
                if attempt == 0:
                    raise RuntimeError("interrupted")
        except RuntimeError:
            pass
    first, second = runs("again")
    assert values(first["rows"], "train/loss") == [(0, 1.0), (1, 1.0)] and values(first["rows"], "finished") == [(0, 0), (1, 1)]
    assert values(second["rows"], "train/loss") == [(2, 1.0)]


@needs_trackio
def test_a_sweep_has_a_row_of_its_own(tmp_path, pages):
    rows = [
        {"number": number, "values": {"method.beta": "0.1"}, "state": "finished", "score": score, "seconds": 1.0}
        for number, score in enumerate((0.5, 0.7))
    ]
    settings = dataclasses.replace(SETTINGS, project="sweeps", folder=str(pages))
    for _ in range(2):
        record_sweep(TrackioTracker, settings, tmp_path, group="sweep-1", rows=rows, facts={"command": ["-m", "x=1,2"]})
    (run,) = runs("sweeps")
    assert (run["config"]["_Group"], run["config"]["job_type"], run["config"]["command"]) == ("sweep-1", "sweep", "-m, x=1,2")
    assert values(run["rows"], "best/number")[-1] == (0, 1)
    assert values(run["rows"], "jobs")[-1][1]["_value"][1]["score"] == 0.7


@needs_trackio
def test_a_training_and_its_parent_are_two_runs_and_linked(tmp_path, pages):
    short = ["train.max_steps=2", "data.limit=24", "evaluate=false", "preflight=skip"]
    parent = "model.parent_overrides=[" + ",".join(f"'{word}'" for word in short) + "]"
    World(tmp_path).run(
        "stage=align", "method=dpo", *short, parent, "tracking=trackio", "tracking.project=real", f"tracking.folder={pages}", tracked=True
    )
    sft, align = runs("real")
    assert [run["config"]["job_type"] for run in (sft, align)] == ["sft", "align"]
    assert [step for step, _ in values(align["rows"], "train/train_loss")] == [2] and align["config"]["method.name"] == "dpo"
    from trackio.sqlite_storage import SQLiteStorage

    made = SQLiteStorage.get_run_artifacts("real", sft["name"], sft["id"])["output"]
    used = SQLiteStorage.get_run_artifacts("real", align["name"], align["id"])["input"]
    assert [(link["name"], link["version"]) for link in made] == [(link["name"], link["version"]) for link in used] != []
    assert not list(pages.rglob("*.safetensors"))


@needs_trackio
@pytest.mark.parametrize("how", ["ours", "careless"])
def test_it_dials_nowhere(tmp_path, how):
    """`careless` is trackio's own front door with a token of the hub at hand: it asks the hub whose it is."""
    with HubServer() as hub:
        away = {"TRACKIO_SPACE_ID": "me/space", "TRACKIO_BUCKET_ID": "me/bucket"} if how == "ours" else {}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKIO_", "HF_"))}
        environment |= {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "hf_canary",
            "HF_HOME": str(tmp_path / "hf"),
            "PYTHONPATH": python_path(),
            **away,
        }
        command = [sys.executable, "-c", PROBE, str(tmp_path / "pages"), how]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
        asked = [request.path for request in hub.requests]
    assert bool(asked) == ("DIALLED []" not in done.stdout) == (how == "careless"), done.stdout
    assert (tmp_path / "pages" / "lex.db").is_file() == (how == "ours")
    if how == "ours":
        assert "TRACKIO_SPACE_ID and TRACKIO_BUCKET_ID ignored" in done.stderr


@needs_trackio
@pytest.mark.parametrize("what", ["no folder", "no database"])
def test_a_run_outlives_trackio(tmp_path, pages, caplog, what):
    project = what.replace(" ", "-")
    database = pages / f"{project}.db"
    if what == "no folder":
        database.mkdir()
    with tracker(pages, tmp_path / "out", project=project) as tracked:
        tracked.log(1, {"train/loss": 1.0})
        if what == "no database":
            database.write_bytes(b"no database any more")
        for step in range(2, 5):
            tracked.log(step, {"train/loss": 1.0})
        tracked.summary({"after/accuracy": 1.0})
        tracked.table("samples", [{"prompt": "a"}])
    told = [record.getMessage() for record in caplog.records if record.name.startswith("lexalign.")]
    assert any("could not be persisted" in line for line in told), told
    assert len(told) == len(set(told)) < 4
    (shutil.rmtree if database.is_dir() else os.remove)(database)


@needs_trackio
def test_a_project_that_trackio_refuses_is_an_error(tmp_path, pages):
    with pytest.raises(ConfigError, match="tracking.project: Project name 'registry-x' is not allowed"):
        tracker(pages, tmp_path, project="registry-x").__enter__()
    assert sys.modules.get("wandb", sys) is not None, "the next run of this process finds wandb again"


@needs_trackio
def test_its_pages_are_at_the_loopback_only(tmp_path, pages):
    with tracker(pages, tmp_path, project="shown"):
        pass
    environment = {**os.environ, "TRACKIO_DIR": str(pages), "BROWSER": "true", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "trackio.cli", "show", "--project", "shown"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as shown:
        try:
            assert shown.stdout is not None
            (url,) = re.findall(r"launched at: (http://127\.0\.0\.1:\d+)", shown.stdout.readline())
            ports = {place.laddr.ip for place in psutil.Process(shown.pid).net_connections() if place.status == psutil.CONN_LISTEN}
            assert ports == {"127.0.0.1"}
            asked = urllib.request.Request(f"{url}/api/get_runs_for_project", b'{"project": "shown"}', {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked, timeout=20) as answer:
                assert [run["name"] for run in json.load(answer)["data"]] == ["method.beta=0.1"]
        finally:
            shown.kill()


def test_a_missing_package_is_refused_before_anything_else(monkeypatch):
    monkeypatch.setattr("lexalign.config.rules.tracking.is_installed", lambda package: False)
    problems = problems_of(["tracking=trackio"])
    assert problems == [
        "tracking=trackio: trackio is not installed; type pip install -e '.[trackio]', or choose tracking=wandb or tracking=none"
    ]


@pytest.mark.parametrize(
    ("typed", "instead"),
    [
        ("tracking=trackio tracking.entity=me", "tracking.entity: is not read with tracking=trackio; leave it out, or type tracking=wandb"),
        ("tracking=trackio tracking.mode=online", "tracking.mode: is not read with tracking=trackio"),
        ("tracking=wandb tracking.folder=x", "tracking.folder: is not read with tracking=wandb; leave it out, or type tracking=trackio"),
        ("tracking=none tracking.link_artifacts=true", "tracking.link_artifacts: is not read with tracking=none; leave it out"),
    ],
)
def test_a_setting_of_another_tracker_is_refused(monkeypatch, typed, instead):
    monkeypatch.setattr("lexalign.config.rules.tracking.is_installed", lambda package: True)
    assert said(problems_of(typed), instead)
