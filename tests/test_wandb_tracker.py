"""`lexalign.tracking` against W&B's own files and a server on the loopback; nothing here leaves the machine."""

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import wandb
from wandb.sdk import wandb_setup
from wandb_client import KEY, SETTINGS, records, run_files, tracker, wandb_command
from wandb_server import WandbServer

from lexalign.errors import ConfigError
from lexalign.tracking import WandbTracker, wandb_tracker
from lexalign.tracking.wandb_tracker import MAX_NAME

pytestmark = pytest.mark.usefixtures("own_home")
ROWS = [{"prompt": "a?", "before": "x"}, {"prompt": "b?", "after": "y"}]


def log_a_run(tracker: WandbTracker) -> None:
    """Everything a stage logs."""
    tracker.summary({"before/accuracy": 0.5})
    tracker.log(5, {"train/loss": 2.0})
    tracker.log(10, {"train/loss": 1.0})
    # As a resumed run does.
    tracker.log(6, {"train/loss": 1.5})
    tracker.summary({"after/accuracy": 0.75})
    tracker.table("samples", ROWS)
    tracker.artifact(Path("multirun/1/artifact"))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail when the block takes longer."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def test_an_offline_run_is_read_back(tmp_path, own_home, said):
    out_dir = tmp_path / "out dir"
    with tracker(out_dir) as tracked:
        log_a_run(tracked)

    (file,) = run_files(out_dir)
    summary = json.loads(wandb_command("leet", "inspect", "--summary", "--json", str(file)))
    assert summary["config"] == {"seed": 1, "method": {"beta": 0.1}}
    assert (summary["name"], summary["project"], summary["tags"]) == ("method=dpo", "lex", ["tiny"])
    assert (summary["state"], summary["exit_code"]) == ("finished", 0)
    values = summary["summary"]
    assert (values["before/accuracy"], values["after/accuracy"], values["artifact"]) == (0.5, 0.75, "multirun/1/artifact")
    assert (values["samples"]["nrows"], values["samples"]["ncols"]) == (2, 3)

    (run,) = records(file, "run")
    assert (run["run_group"], run["job_type"]) == ("sweep-1", "align")
    steps = [item for item in (row["item"] for row in records(file, "history")) if "train/loss" in item]
    assert [(item["step"], item["train/loss"]) for item in steps] == [(5, 2.0), (10, 1.0), (6, 1.5)]
    (table,) = file.parent.glob("files/media/table/samples*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["prompt", "before", "after"],
        "data": [["a?", "x", None], ["b?", None, "y"]],
    }
    assert said.lines[0].startswith("W&B: offline (no key is configured")
    assert said.sync_arguments == ["sync", str(file.parent)]
    assert not (own_home / "data").exists(), "the staged table lies in the user's home"


def test_the_printed_command_uploads_an_offline_run(tmp_path, said):
    with tracker(tmp_path / "out") as tracked:
        log_a_run(tracked)
    with WandbServer() as stub:
        wandb_command(*said.sync_arguments, WANDB_API_KEY=KEY, WANDB_BASE_URL=stub.url)
        (run,) = stub.runs().values()
        assert (run.told("groupName"), run.told("displayName"), run.exit_code) == ("sweep-1", "method=dpo", 0)
        assert run.summary["after/accuracy"] == 0.75
        assert b'"b?"' in stub.uploads()["samples.table.json"]


def test_three_runs_of_one_process_are_three(tmp_path):
    for job in range(3):
        with tracker(tmp_path / str(job), name=f"seed={job}") as tracked:
            tracked.log(1, {"train/loss": float(job)})
    found = [records(file, "run")[0] for job in range(3) for file in run_files(tmp_path / str(job))]
    assert [run["display_name"] for run in found] == ["seed=0", "seed=1", "seed=2"]
    assert len({run["run_id"] for run in found}) == 3
    assert wandb.run is None


def test_an_online_run_arrives_whole(tmp_path, server, said, capfd):
    with tracker(tmp_path) as tracked:
        log_a_run(tracked)

    ((run_id, run),) = server.runs().items()
    assert said.lines == [f"W&B: {server.url}/local/lex/runs/{run_id}"]
    assert capfd.readouterr() == ("", "")
    assert run.config.items() >= {"seed": 1, "method": {"beta": 0.1}}.items()
    assert run.config.keys() - {"_wandb"} == {"seed", "method"}
    told = [run.told(key) for key in ("project", "groupName", "displayName", "jobType", "tags")]
    assert told == ["lex", "sweep-1", "method=dpo", "align", ["tiny"]]
    assert [(row["step"], row["train/loss"]) for row in run.history if "train/loss" in row] == [(5, 2.0), (10, 1.0), (6, 1.5)]
    assert (run.summary["before/accuracy"], run.summary["after/accuracy"]) == (0.5, 0.75)
    assert run.summary["artifact"] == "multirun/1/artifact"
    assert b'"b?"' in server.uploads()["samples.table.json"]
    assert run.exit_code == 0
    assert not {"wandb-metadata.json", "requirements.txt", "output.log", "diff.patch"} & server.uploads().keys()


def test_a_sweep_of_three_is_one_group(tmp_path, server):
    for job in range(3):
        with tracker(tmp_path / str(job), name=f"method.beta={job}") as tracked:
            tracked.log(1, {"train/loss": float(job)})
    runs = server.runs().values()
    assert sorted(run.told("displayName") for run in runs) == ["method.beta=0", "method.beta=1", "method.beta=2"]
    assert [run.told("groupName") for run in runs] == ["sweep-1"] * 3
    assert [run.exit_code for run in runs] == [0, 0, 0]


@pytest.mark.parametrize("fault", ["dead", "silent", "refusing"])
def test_a_server_that_fails_at_the_start_is_said_and_left(tmp_path, server, said, fault):
    if fault == "dead":
        server.die()
    elif fault == "silent":
        server.hang = lambda request: True
    else:
        server.refuse = 401
    with within(25), tracker(tmp_path) as tracked:
        log_a_run(tracked)

    assert len(said.lines) == 2
    assert said.lines[0].startswith("W&B: offline (the server did not open the run: ")
    folder = Path(said.sync_arguments[-1])
    assert folder.name.startswith("offline-run-")
    (file,) = folder.glob("*.wandb")
    assert [exit["exit_code"] for exit in records(file, "exit")] == [0]


@pytest.mark.parametrize("stuck", ["anything", "GraphQL", "file_stream"])
def test_a_server_that_hangs_at_the_end_is_left_in_time(tmp_path, server, said, monkeypatch, stuck):
    monkeypatch.setattr(wandb_tracker, "GRACE", 2.0)
    with tracker(tmp_path, finish_timeout=1) as tracked:
        log_a_run(tracked)
        server.hang = {
            "anything": lambda request: True,
            "GraphQL": lambda request: request.operation is not None,
            "file_stream": lambda request: request.path.endswith("/file_stream"),
        }[stuck]
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert "did not take everything within 1 s" in said.lines[-1]
    with WandbServer() as stub:
        wandb_command(*said.sync_arguments, WANDB_API_KEY=KEY, WANDB_BASE_URL=stub.url)
        (run,) = stub.runs().values()
        assert (run.summary["after/accuracy"], run.exit_code) == (0.75, 0)


def test_a_table_does_not_wait_for_ever(tmp_path, server, said, monkeypatch):
    # 19 s in earnest.
    monkeypatch.setattr("wandb.apis.public.Api._HTTP_TIMEOUT", 2)
    with within(20), tracker(tmp_path, finish_timeout=1) as tracked:
        server.hang = lambda request: True
        tracked.table("samples", ROWS)
    assert any(line.startswith("W&B: the table samples not logged") for line in said.lines)


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
def test_an_exception_marks_the_run_failed_and_goes_on(tmp_path, exception):
    with pytest.raises(exception), tracker(tmp_path) as tracked:
        tracked.log(1, {"train/loss": 1.0})
        raise exception
    (file,) = run_files(tmp_path)
    assert [exit["exit_code"] for exit in records(file, "exit")] == [1]
    assert wandb.run is None


def test_an_interrupted_run_goes_on_as_the_same_run(tmp_path, server):
    for attempt in range(3):
        try:
            with tracker(tmp_path) as tracked:
                tracked.log(attempt, {"train/loss": 1.0})
                if attempt == 0:
                    raise RuntimeError("interrupted")
        except RuntimeError:
            pass
    # The second attempt resumes the first and finishes; the third is new.
    assert len(server.runs()) == 2


def test_the_run_outlives_wandb(tmp_path, server, said):
    with tracker(tmp_path / "0") as tracked:
        tracked.log(1, {"train/loss": 1.0})
        wandb_setup.singleton()._connection._proc._process.kill()
        time.sleep(0.5)
        for step in range(2, 8):
            tracked.log(step, {"train/loss": 1.0})
        tracked.summary({"after/accuracy": 1.0})
        tracked.table("samples", ROWS)
        tracked.artifact(tmp_path)
    assert sum("metrics not logged" in line for line in said.lines) == 1
    assert "the run was not closed" in said.lines[-1]
    with tracker(tmp_path / "1", name="next") as tracked:
        tracked.log(1, {"train/loss": 1.0})
    assert [run.exit_code for run in server.runs().values() if run.told("displayName") == "next"] == [0]


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_mode_is_honoured_and_said(tmp_path, server, said, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    with tracker(tmp_path) as tracked:
        log_a_run(tracked)
    assert said.lines[0] == f"W&B: {mode} (WANDB_MODE or wandb's settings file says so)"
    assert len(run_files(tmp_path)) == (1 if mode == "offline" else 0)
    assert server.requests == []


def test_a_key_in_netrc_goes_online(tmp_path, server, own_home, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    host = server.url.removeprefix("http://")
    (own_home / "netrc").write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    with tracker(tmp_path) as tracked:
        tracked.log(1, {"train/loss": 1.0})
    assert [run.exit_code for run in server.runs().values()] == [0]


def test_a_malformed_key_is_said(tmp_path, server, said, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short-key")
    with tracker(tmp_path):
        pass
    assert said.lines[0].startswith("W&B: offline (WANDB_API_KEY invalid")
    assert server.requests == []


def test_online_without_a_key_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="tracking.mode=online cannot log in .* tracking.mode=auto"):
        tracker(tmp_path, mode="online").__enter__()


def test_a_project_that_wandb_refuses_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="Invalid project name 'a/b'"):
        tracker(tmp_path, project="a/b").__enter__()


def test_settings_name_the_run_and_long_names_are_cut(tmp_path):
    with WandbTracker(dataclasses.replace(SETTINGS, name="mine"), tmp_path, {}, "method=dpo", "g" * 300, "sft"):
        pass
    (run,) = records(run_files(tmp_path)[0], "run")
    assert (run["display_name"], len(run["run_group"])) == ("mine", MAX_NAME)


def test_variables_win_over_settings_that_were_not_typed(tmp_path, monkeypatch, said):
    for name, value in {
        "WANDB_PROJECT": "theirs", "WANDB_ENTITY": "team", "WANDB_NAME": "myname", "WANDB_RUN_GROUP": "mygroup", "WANDB_JOB_TYPE": "myjob",
        "WANDB_TAGS": "t1, t2", "WANDB_NOTES": "notes", "WANDB_DIR": str(tmp_path / "wd"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / "wd").mkdir()
    with tracker(tmp_path / "out", group=None) as tracked:
        tracked.log(1, {"train/loss": 1.0})
    (file,) = run_files(tmp_path / "wd")
    (run,) = records(file, "run")
    assert [run[key] for key in ("project", "entity", "display_name", "run_group", "job_type", "notes")] == [
        "theirs", "team", "myname", "mygroup", "myjob", "notes",
    ]  # fmt: skip
    assert run["tags"] == ["t1", "t2", "tiny"]
    assert any("WANDB_PROJECT and WANDB_ENTITY and WANDB_NAME" in line and "are used" in line for line in said.lines)


def test_a_typed_setting_wins_over_a_variable_and_jobs_keep_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_NAME", "one for all")
    monkeypatch.setenv("WANDB_RUN_GROUP", "mygroup")
    with tracker(tmp_path / "out", typed=["tracking.project=lex"]) as tracked:
        tracked.log(1, {"train/loss": 1.0})
    (run,) = records(run_files(tmp_path / "out")[0], "run")
    assert (run["project"], run["display_name"], run["run_group"]) == ("lex", "method=dpo", "mygroup")


def test_an_offline_run_that_goes_on_holds_the_whole_curve(tmp_path, said):
    with tracker(tmp_path / "out") as tracked:
        tracked.log(1, {"train/loss": 3.0})
        tracked.log(2, {"train/loss": 2.0})
    with tracker(tmp_path / "out") as tracked:
        tracked.log_earlier([(1, {"train/loss": 3.0}), (2, {"train/loss": 2.0})])
        tracked.log(3, {"train/loss": 1.0})
    newest = max(run_files(tmp_path / "out"), key=lambda file: len(records(file, "history")))
    steps = [item["step"] for item in (row["item"] for row in records(newest, "history")) if "train/loss" in item]
    assert steps == [1, 2, 3]
    assert any("metrics up to step 2 are logged into it again" in line for line in said.lines)


def test_an_online_run_that_goes_on_is_not_logged_twice(tmp_path, server):
    with tracker(tmp_path) as tracked:
        tracked.log_earlier([(1, {"train/loss": 3.0})])
        tracked.log(2, {"train/loss": 2.0})
    (run,) = server.runs().values()
    assert [row["step"] for row in run.history if "train/loss" in row] == [2]
