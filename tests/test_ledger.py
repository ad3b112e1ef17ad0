"""A sweep's ledger: what it keeps, how fast it is with many jobs, and what it does on a full disk."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from experiment_runner import ROOT, World, cpu_of_children, python_path
from hypothesis import given
from hypothesis import strategies as st

from lexalign.artifacts import file_systems
from lexalign.errors import ConfigError
from lexalign.sweeps import fingerprint, run
from lexalign.sweeps.ledger import STATES, Job, Ledger, format_counts
from lexalign.sweeps.points import make_standalone_command, parse_request

WORDS = ("stage=sft", "tracking=none", "seed=range(0,10000)", "output_dir=sweep")
MANY = 10_000

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
jobs = st.builds(
    Job,
    key=st.uuids().map(str),
    number=st.none(),
    overrides=st.lists(texts, max_size=4),
    values=st.dictionaries(texts, texts, max_size=4),
    state=st.sampled_from(STATES),
    score=st.none() | st.floats(allow_nan=False),
    metrics=st.dictionaries(texts, st.floats(allow_nan=False), max_size=3),
    reason=st.none() | texts,
)


@given(st.lists(jobs, max_size=5, unique_by=lambda job: job.key))
def test_what_is_put_is_read(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("ledger")
    for number, job in enumerate(made):
        job.number, job.folder = number, str(folder / str(number))
    with Ledger(folder, write=True) as ledger:
        ledger.write_jobs(made)
        assert ledger.find_next_number() == len(made)
        ledger.write_facts(command="python run.py -m …", swept=["seed"])
    with Ledger(folder) as ledger:
        assert [asdict(job) for job in ledger.read_jobs()] == [asdict(job) for job in made]
        assert ledger.read_facts() == {"command": "python run.py -m …", "swept": ["seed"]}


def test_a_sweep_may_be_moved(tmp_path):
    (tmp_path / "here").mkdir()
    with Ledger(tmp_path / "here", write=True) as ledger:
        ledger.write_jobs(
            [Job(key="a", number=0, overrides=[], folder=str(tmp_path / "here/0")), Job(key="b", number=1, overrides=[], folder="/else")]
        )
    (tmp_path / "here").rename(tmp_path / "there")
    with Ledger(tmp_path / "there") as ledger:
        assert [job.folder for job in ledger.read_jobs()] == [str(tmp_path / "there/0"), "/else"]


def test_a_reason_that_is_no_utf8_is_kept(tmp_path):
    with Ledger(tmp_path, write=True) as ledger:
        ledger.write_jobs([Job(key="a", number=0, overrides=[], reason="half a \ud83d")])
        assert ledger.read_jobs()[0].reason == "half a \\ud83d"


def test_of_another_version_is_refused(tmp_path):
    with Ledger(tmp_path, write=True) as ledger:
        ledger.connection.execute("PRAGMA user_version=7")
    with pytest.raises(ConfigError, match="is a ledger of version 7"):
        Ledger(tmp_path)
    done = World(tmp_path).type("-m", "seed=0,1", f"output_dir={tmp_path}")
    assert done.returncode == 2 and "is a ledger of version 7" in done.stderr


def test_what_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 200)
    with pytest.raises(ConfigError, match="cannot be read as a ledger"):
        Ledger(tmp_path)


def test_an_axis_that_came_later_is_known_of_older_points(tmp_path):
    words = ["stage=sft", "tracking=none", f"store={tmp_path}/store", "train.weight_decay=0.0,0.1"]
    for typed in (words, [*words, "sweep.seeds=2"]):
        line = parse_request(typed)
        settings, _ = fingerprint.read_sweep_settings(line)
        with run.open_plan(line, settings, tmp_path / "sweep", command=typed) as plan:
            found = plan.add(line.list_grid())
    assert [(job.number, *job.values.values()) for job in found] == [(0, "0.0", "0"), (2, "0.0", "1"), (1, "0.1", "0"), (3, "0.1", "1")]
    with Ledger(tmp_path / "sweep") as ledger:
        assert [job.values["seed"] for job in ledger.read_jobs()] == ["0", "0", "1", "1"]


def test_ten_thousand_jobs(tmp_path):
    """Opened, counted and gone on with in under five seconds each, as typed: nothing of what is finished is composed again."""
    line = parse_request(WORDS)
    experiment = fingerprint.compose_point(tuple(line.list_grid()[0]), line.sources).experiment
    ground = fingerprint.list_inputs([experiment])
    standing = fingerprint.digest_inputs(ground, line.sources)
    folder = tmp_path / "sweep"
    made = []
    for number, point in enumerate(line.list_grid()):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "result.json").touch()
        made.append(
            Job(
                key=f"{number:032x}", number=number, overrides=make_standalone_command(point), values={"seed": str(number)},
                state="finished", score=0.5,
                folder=str(folder / str(number)), standing=standing, metrics={"exact_match": 0.5}, score_name="exact_match",
            )
        )  # fmt: skip
    with Ledger(folder, write=True) as ledger:
        ledger.write_jobs(made)
        ledger.write_facts(identity=fingerprint.make_sweep_key(line), command="before", grounds={standing: ground})
    began = time.monotonic()
    with Ledger(folder) as ledger:
        assert format_counts(ledger.read_jobs()) == "10000 finished"
    opened, before = time.monotonic() - began, cpu_of_children()
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), "-m", *WORDS], cwd=tmp_path, capture_output=True, text=True)
    took = cpu_of_children() - before  # of one process that waits for nothing, whatever else the machine does
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{MANY} points, {MANY} finished before, 0 to run" in done.stderr
    assert opened < 5 and took < 5, (opened, took)


NETWORK = """
/dev/vda / ext4 rw 0 0
server:/home /mnt/home nfs4 rw 0 0
/dev/vdb /mnt/home/local ext4 rw 0 0
10.0.0.1@tcp:/scratch /mnt/big\\040scratch lustre rw,flock 0 0
""".lstrip()


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/mnt/home/me/sweep", "nfs4"), ("/mnt/home/local/sweep", None), ("/mnt/homes", None), ("/mnt/big scratch/x", "lustre"), ("/", None)],
)
def test_network_file_systems_are_known(tmp_path, monkeypatch, folder, kind):
    (tmp_path / "mounts").write_text(NETWORK)
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "mounts")
    assert file_systems.get_network_file_system(Path(folder)) == kind


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A folder that is taken for one of a network file system."""
    (tmp_path / "mounts").write_text(f"server:/x {tmp_path}/net nfs4 rw 0 0\n")
    (tmp_path / "net").mkdir()
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "mounts")
    return tmp_path / "net"


def test_on_a_network_it_needs_no_shared_memory(network):
    with Ledger(network, write=True) as ledger:
        ledger.write_jobs([Job(key="a", number=0, overrides=[])])
        assert {file.name for file in network.iterdir()} == {"ledger.sqlite"}, "neither a log nor shared memory"
        with Ledger(network) as reader:
            ledger.write_jobs([Job(key="b", number=1, overrides=[])])
            assert len(reader.read_jobs()) == 2


def test_moved_to_a_network_it_is_read_and_gone_on_with(network, tmp_path):
    with Ledger(tmp_path, write=True) as ledger:
        ledger.write_jobs([Job(key="a", number=0, overrides=[])])
    (tmp_path / "ledger.sqlite").rename(network / "ledger.sqlite")
    with Ledger(network) as ledger:
        assert len(ledger.read_jobs()) == 1
    with Ledger(network, write=True) as ledger:
        ledger.write_jobs([Job(key="b", number=1, overrides=[])])
        assert ledger.connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    with Ledger(network) as ledger:
        assert len(ledger.read_jobs()) == 2


def test_killed_amid_a_transaction_on_a_network(network, monkeypatch):
    """The lock stays behind, and what the transaction had written; the next who writes waits, removes the one and undoes the other."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(network)], env={**os.environ, "PYTHONPATH": python_path()})
    assert done.returncode == -signal.SIGKILL and (network / "ledger.sqlite.lock").is_dir()
    monkeypatch.setattr("lexalign.sweeps.ledger.LOCKED_SECONDS", 0.5)
    with Ledger(network, write=True) as ledger:
        assert [job.key for job in ledger.read_jobs()] == ["kept"]
    assert not (network / "ledger.sqlite.lock").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from lexalign.artifacts import file_systems
from lexalign.sweeps.ledger import Job, Ledger
folder = Path(sys.argv[1])
file_systems.MOUNTS = folder.parent / "mounts"
ledger = Ledger(folder, write=True)
ledger.write_jobs([Job(key="kept", number=0, overrides=[])])
ledger.connection.execute("PRAGMA cache_size=1")
ledger.connection.execute("BEGIN IMMEDIATE")
ledger.connection.executemany("INSERT INTO jobs (key, reason) VALUES (?, ?)", [(str(n), "x" * 5000) for n in range(100)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_full_disk_loses_nothing(tmp_path):
    """On a disk of its own, so small that the ledger fills it: what was noted before is still there."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": python_path()}
    )
    assert done.returncode == 0, done.stderr
    assert "free some, and type the same command again" in done.stdout
    with Ledger(tmp_path) as ledger:
        assert len(ledger.read_jobs()) == int(done.stdout.splitlines()[-1])


# A limit on the size of the process's files is to SQLite what a full disk is.
FULL = """
import resource, signal, sys
from pathlib import Path
from lexalign.errors import DiskFull
from lexalign.sweeps.ledger import Job, Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger, kept = Ledger(Path(sys.argv[1]), write=True), 0
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    while True:
        ledger.write_jobs([Job(key=str(kept), number=kept, overrides=["x" * 500])])
        kept += 1
except DiskFull as error:
    print(error)
print(kept)
"""
