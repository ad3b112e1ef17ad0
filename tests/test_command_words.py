"""The words of a command line: options anywhere, settings with dashes, Hydra's settings that are not read, values that are empty, folders
that cannot be written."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_line_problems import problems_of, said

from lexalign.config.command_line import arrange_words
from lexalign.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("seed=1 -m stage=align", "-m seed=1 stage=align"),
        ("a=1 --cfg job b=2", "--cfg job a=1 b=2"),
        ("a=1 --cfg=job", "--cfg=job a=1"),
        ("a=1 --info b=2", "--info a=1 b=2"),
        ("a=1 --info searchpath b=2", "--info searchpath a=1 b=2"),
        ("stage=sft --config-dir mine", "--config-dir mine stage=sft"),
        ("--seed=1", "seed=1"),
        ("-seed=1 --+data.x=2", "seed=1 +data.x=2"),
        ("--method.beta=0.1 -m --seed=1,2", "-m method.beta=0.1 seed=1,2"),
        ("hydra.mode=MULTIRUN seed=1,2", "-m seed=1,2"),
        ("seed=1 hydra.mode=RUN", "seed=1"),
        ("-m hydra.mode=multirun seed=1,2", "-m seed=1,2"),
        ("seed=1 seed=2", "seed=2"),
        ("method.knobs=lexalign.schema.DpoMethod", "method.settings_class=lexalign.schema.DpoMethod"),
    ],
)
def test_how_words_are_read(words, read, capsys):
    assert arrange_words(words.split()) == read.split()
    said_so = capsys.readouterr().err
    assert bool(said_so) == any(part in words for part in ("-seed=", "--method", "seed=1 seed=2", "knobs"))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--seed 1", "--seed 1: settings are typed without dashes; type seed=1"),
        ("--multirum seed=1,2", "--multirum: is no option; did you mean --multirun?"),
        ("--cfg", "--cfg: needs one of job, hydra, all after it"),
        ("--cfg jobs", "--cfg: jobs is not one of job, hydra, all"),
        ("-cn other", "--config-name: conf/config.yaml is the one root"),
        ("--config-path=/tmp", "--config-path: conf/config.yaml is the one root"),
        ("--experimental-rerun job.pickle", "--experimental-rerun: would read a pickle, which can run code"),
        ("hydra.mode=SWEEP", "hydra.mode=SWEEP: is RUN or MULTIRUN"),
        ("-m hydra.mode=RUN seed=1,2", "hydra.mode=RUN: -m asks for a sweep; leave one of them out"),
    ],
)
def test_words_that_are_refused(words, problem):
    with pytest.raises(ConfigError) as error:
        arrange_words(words.split())
    assert [found for found in error.value.problems if found.startswith(problem)]
    assert said(problems_of(words), problem)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("hydra.sweep.dir=/tmp/x -m seed=0,1", "hydra.sweep.dir=/tmp/x: is not read; name the folder of a sweep with output_dir="),
        ("hydra.sweep.subdir=x -m seed=0,1", "hydra.sweep.subdir=x: is not read; the folders of a sweep's runs are numbered"),
        ("hydra.sweep.dir=/tmp/x", "hydra.sweep.dir=/tmp/x: is not read"),
        ("hydra.job.chdir=true", "hydra.job.chdir=True: is not read; paths are read from the folder where you type"),
        ("hydra.sweeper.params=x -m seed=0,1", "hydra.sweeper.params: is not read; type what varies behind -m"),
        ("+hydra.sweeper.params.seed=1 -m", "hydra.sweeper.params: is not read; type what varies behind -m"),
        ("nosuch=1 hydra.mode=RUN", "nosuch: unknown setting"),
    ],
)
def test_hydras_settings_that_are_not_read(words, problem):
    assert said(problems_of(words), problem)


@pytest.mark.parametrize("node", ["mode: MULTIRUN", "sweep: {dir: elsewhere}", "sweeper: {params: {seed: '0,1'}}", "job: {chdir: true}"])
def test_nor_in_a_file(node, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\nhydra:\n  {node}\n")
    assert said(problems_of(["--config-dir", str(tmp_path), "experiment=mine"]), "hydra.", "is not read; ")


@pytest.mark.parametrize(
    "key",
    ["data.path", "data.split", "data.eval_split", "model.path", "model.tokenizer", "reproduce", "report", "output_dir", "store", "resume",
     "download.output_dir", "tracking.project", "sweep.folder", "compare"],
)  # fmt: skip
def test_an_empty_value_is_refused(key):
    value = "['']" if key == "compare" else ""
    problems = problems_of([f"{key}={value}"])
    assert said(problems, f"{key}", ": is empty; give it a value, or leave it out")


def test_a_text_may_be_empty():
    assert problems_of(["data.system="]) == []


def test_a_rule_is_silent_on_what_could_not_be_read():
    problems = problems_of(["data=instructions", "data.path=/a=b/x.jsonl", "data.eval_fraction=0.1"])
    assert len(problems) == 1 and problems[0].startswith("data.path=/a=b/x.jsonl: cannot be read")


@pytest.mark.parametrize("switch", ["evaluate=false", "evaluate=False", "evaluate=TRUE"])
def test_evaluate_as_a_switch_in_any_case(switch):
    assert said(problems_of([switch, "evaluate.limit=8"]), f"evaluate.limit: {switch} stands for all of evaluate")


def test_a_home_is_expanded_where_it_is_typed_and_refused_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert arrange_words(["output_dir=~/runs", "store=~/store"]) == [f"output_dir={tmp_path}/runs", f"store={tmp_path}/store"]
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nstore: ~/store\n")
    assert said(problems_of(["--config-dir", str(tmp_path), "experiment=mine"]), "store=~/store: ~ is read on the command line only")


@pytest.fixture
def read_only(tmp_path):
    """A folder on a file system that cannot be written."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", ["output_dir", "store"]),
        ("output_dir=ELSEWHERE", ["store"]),
        ("-m seed=0,1", ["output_dir", "store"]),
        ("stage=align method=dpo", ["output_dir", "store"]),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused(words, names, read_only, tmp_path, monkeypatch):
    monkeypatch.chdir(read_only)
    problems = problems_of(words.replace("ELSEWHERE", str(tmp_path / "out")))
    assert sorted(problem.partition(": cannot be written: ")[0] for problem in problems) == names, problems
    assert all("is on a read-only file system; name another" in problem for problem in problems)


def test_a_dry_run_needs_no_folder(read_only):
    command = [sys.executable, str(ROOT / "run.py"), "dry_run=true", "stage=align", "tracking=none"]
    done = subprocess.run(command, cwd=read_only, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "train_rows" in done.stdout, done.stderr


def test_a_name_that_is_too_long_is_refused(tmp_path):
    assert said(problems_of([f"output_dir={tmp_path}/{'x' * 300}"]), "output_dir: cannot be written: File name too long")
