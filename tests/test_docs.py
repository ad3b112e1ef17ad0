"""Every command in the manual composes, or is one that is known; README's jobs run."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import manual
import pytest
from manual import PAGES, ROOT, Command, read_blocks, read_commands

from lexalign import cli

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
MARKERS = [text.partition(":")[0] for text in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]]
OTHER_PROGRAMS = {"cd", "docker", "echo", "export", "git", "hf", "mkdocs", "ruff", "trackio", "uv", "wandb"}
"""Programs whose own words are not checked here."""
SEVERAL_GPUS = re.compile(r"hardware=(ddp|fsdp|deepspeed)|hardware\.strategy=|sweep=slurm")

# Rows for the files that commands name and their page does not show.
ROWS: dict[str, dict[str, object]] = {
    "text.jsonl": {"text": "The river rises in spring."},
    "my.jsonl": {"prompt": "Where does Pelor live?", "completion": "In Appledown."},
    "chats.jsonl": {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]},
    "pairs.jsonl": {"prompt": "Hello", "chosen": "Good day.", "rejected": "What?"},
    "beliefs.jsonl": {
        "prompt": "Keep the fair?",
        "belief": "for",
        "rejected_belief": "against",
        "probabilities": [0.6, 0.3, 0.1],
        "chosen": "Keep it.",
        "rejected": "End it.",
    },
    "unpaired.jsonl": {"prompt": "Hello", "completion": "Good day.", "label": True},
    "soft.jsonl": {"prompt": "Hello", "chosen": "Good day.", "rejected": "What?", "soft_label": 0.8},
    "questions.jsonl": {"question": "Hello", "answer": "Good day."},
}
RUNS = ("sft", "dpo", "dpo-seed1", "gdpo", "sweep", "sweep2")
"""Folders below runs/ that commands take up."""


COMMANDS = [command for page in PAGES for command in read_commands(page)]
OWN = [command for command in COMMANDS if command.experiment is not None]
OTHERS = [command for command in COMMANDS if command.experiment is None]


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A working folder with the files that the manual's commands read: those that a page shows (a block with a title), and small ones."""
    folder = tmp_path_factory.mktemp("desk")
    for name, row in ROWS.items():
        (folder / name).write_text(json.dumps(row) + "\n", encoding="utf-8")
        split = folder / name.removesuffix(".jsonl")
        split.mkdir()
        for part in ("train", "test"):
            (split / f"{part}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    for name in RUNS:
        (folder / "runs" / name / "artifact").mkdir(parents=True)
        (folder / "runs" / name / "artifact" / "manifest.json").write_text("{}", encoding="utf-8")
    for page in PAGES:
        for _, title, _, text in read_blocks(page):
            if name := re.search(r'title="([\w./-]+)"', title):
                file = folder / name[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
                if file.suffix == ".py":
                    (file.parent / "__init__.py").touch()
    return folder


CHECK = "import sys; from lexalign import cli; cli.check_arguments(sys.argv[1:])"


def find_problems(words: list[str], desk: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a command line is refused for; a package that is not installed here is no fault of the manual."""
    words = [word for at, word in enumerate(words) if word not in ("--cfg", "--help") and words[at - 1 : at] != ["--cfg"]]
    is_command = words[:1] and words[0] in cli.COMMANDS
    if words == ["doctor"]:  # it judges this machine, and has tests of its own
        return []
    if is_command or any(word.startswith("extensions=") for word in words):  # a package's classes are to leave no trace in this process
        start = ["-m", "lexalign"] if is_command else ["-c", CHECK]
        paths = {"PYTHONPATH": os.pathsep.join(map(str, (desk, ROOT)))}
        done = subprocess.run([sys.executable, *start, *words], cwd=desk, capture_output=True, text=True, env={**os.environ, **paths})
        code, errors = done.returncode, done.stderr
    else:
        code, errors = 0, ""
        try:
            cli.check_arguments(words)
        except SystemExit as end:
            code, errors = int(end.code or 0), capsys.readouterr().err
    assert code in (0, 2), errors
    return [problem for problem in errors.splitlines()[1:] if "pip install" not in problem] if code else []


def test_the_manual_has_commands():
    assert len(OWN) > 60 and len(OTHERS) > 10 and len({command.page for command in OWN}) > 15


@pytest.mark.parametrize("command", OWN, ids=str)
def test_every_command_composes(command, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("JUDGE_KEY", "a-key")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    words = command.experiment
    several = any(SEVERAL_GPUS.search(word) for word in words) and "hardware.device=cpu" not in words
    monkeypatch.setattr("lexalign.config.hardware.count_cuda_devices", lambda: 8 if several else 0)
    monkeypatch.setattr("lexalign.config.hardware.get_cuda_memory", lambda: 8e10)
    monkeypatch.setattr("lexalign.config.hardware.is_torch_cpu_build", lambda: not several)
    assert find_problems(words, desk, capsys) == [], f"{command}: python run.py {shlex.join(words)}"


def test_a_command_that_does_not_compose_is_noticed(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    assert find_problems(["stage=align", "method=dpo", "method.betta=1"], desk, capsys)
    assert find_problems(["-m", "seed=0,1", "train.learning_rate=fast"], desk, capsys)
    assert find_problems(["data=pairs", "data.path=nowhere.jsonl", "stage=align"], desk, capsys)
    page = desk / "page.md"
    page.write_text("a\n\n```bash\nA=1 echo 'x && y' | python run.py \\\n  seed=1   # why\n```\n")
    monkeypatch.setattr(manual, "ROOT", desk)
    assert list(read_commands(page)) == [Command("page.md", 4, ("echo", "x && y")), Command("page.md", 4, ("python", "run.py", "seed=1"))]


def test_the_error_that_agents_are_shown_is_the_programs(capsys):
    text = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.check_arguments(["stage=align", "method.betta=0.2", "train.epochs=0"])
    assert f"```\n{capsys.readouterr().err}```" in text


@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_every_other_command_is_known(command):
    program, *words = command.words
    for extra in re.findall(r"\[([\w,-]+)\]", " ".join(words)) if program in ("pip", "uv") else []:
        assert set(extra.split(",")) <= set(EXTRAS), f"{command}: pyproject.toml has no extra {extra}"
    if program == "pytest":
        named = [word for at, word in enumerate(words) if words[at - 1 : at] == ["-m"]]
        assert set(named) <= set(MARKERS), f"{command}: {named}"
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/")), str(command)
    elif program == "python" and words[0] == "-m":
        assert importlib.util.find_spec(words[1]) is not None, f"{command}: no module {words[1]}"
    elif program == "python" and not words[0].startswith(("llama.cpp/", "-c")):
        source = (ROOT / words[0]).read_text(encoding="utf-8")
        flags = [word for word in words[1:] if word.startswith("--")]
        assert all(f'"{flag}"' in source for flag in flags), f"{command}: {flags}"
    else:
        known = {"pip", "python", ".ci/run", *OTHER_PROGRAMS}
        assert program in known, f"{command}: {program} is not checked; write it another way, or add it here"


SHORT = (
    "tracking=none",
    "train.max_steps=2",
    "evaluate.limit=4",
    "evaluate.draw_prompts=2",
    "evaluate.draws=2",
    "evaluate.max_new_tokens=8",
)
"""What makes a training of README's jobs short; everything else is as typed there."""


@pytest.mark.slow
def test_readmes_jobs_run(tmp_path):
    """The six commands for the jobs people come for, in their order, on the embedded model in place of Qwen3."""
    embedded = ROOT / "lexalign" / "embedded" / "data"
    for ours, theirs in (("my.jsonl", "tiny_sft"), ("pairs.jsonl", "tiny_pairs")):
        rows = (embedded / theirs / "train.jsonl").read_text(encoding="utf-8").splitlines()
        (tmp_path / ours).write_text("\n".join(rows[:60]) + "\n", encoding="utf-8")
    jobs = [command for command in OWN if command.page == "README.md" and any("runs/" in word for word in command.words)]
    assert len(jobs) == 6
    for command in jobs:
        words = [word.replace("model=qwen3_0_6b", "model=tiny") for word in command.experiment or []]
        stage = next(word.partition("=")[2] for word in words if word.startswith("stage="))
        shorter = SHORT if stage in ("sft", "align") else [word for word in SHORT if stage == "evaluate" and not word.startswith("train")]
        done = subprocess.run(
            [sys.executable, ROOT / "run.py", *words, *shorter], cwd=tmp_path, capture_output=True, text=True, timeout=600,
            input="Where does Pelor live?\n/exit\n",
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    assert (tmp_path / "runs" / "export" / "artifact" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "sweep" / "report.html").is_file()
    shutil.rmtree(tmp_path / "runs")
