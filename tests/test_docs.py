"""The manual: every command in it composes, every setting, option, file and link that it names is there, and generated pages are fresh."""

import dataclasses
import functools
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import lexalign
from lexalign import cli, errors
from lexalign.config import schema
from lexalign.training import signals

ROOT = Path(lexalign.__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "bench/README.md", "lexalign/embedded/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
BLOCK = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SHELL = ("bash", "console", "sh")
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


@dataclass(frozen=True)
class Command:
    """One command of a shell block."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def experiment(self) -> list[str] | None:
        """What is typed after `python run.py` or `lexalign`; None for another program."""
        for start in (("python", "run.py"), ("python", "-m", "lexalign"), ("lexalign",)):
            if self.words[: len(start)] == start:
                return list(self.words[len(start) :])
        return None


def name_page(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read_blocks(page: Path) -> Iterator[tuple[str, str, int, str]]:
    """(language, what stands after it, line of the first line inside, text) of every fenced block."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        inner = re.sub(rf"^{block[1]}", "", block[4], flags=re.MULTILINE)
        yield block[2], block[3], text.count("\n", 0, block.start()) + 2, inner


def split_commands(line: str) -> list[tuple[str, ...]]:
    """The commands of one shell line, between `&&`, `|` and `;`; variables set for one command are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;"):
            commands.append([])
        elif commands[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            commands[-1].append(word)
    return [tuple(words) for words in commands if words]


def read_commands(page: Path) -> Iterator[Command]:
    """Every command in a page's shell blocks; of a console block the lines that begin with `$ `."""
    for language, _, first, text in read_blocks(page):
        if language not in SHELL:
            continue
        if language == "console":
            text = "\n".join(line[2:] if line.startswith("$ ") else "" for line in text.splitlines())
        number = first
        for line in re.sub(r"\\\n", "\0", text).splitlines():
            for words in split_commands(line.replace("\0", "")):
                yield Command(name_page(page), number, words)
            number += 1 + line.count("\0")


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


def find_problems(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a command line is refused for; a package that is not installed here is no fault of the manual."""
    words = [word for at, word in enumerate(words) if word not in ("--cfg", "--help") and words[at - 1 : at] != ["--cfg"]]
    try:
        cli.check_arguments(words)
    except SystemExit as end:
        assert end.code == 2
        problems = capsys.readouterr().err.splitlines()
        return [problem for problem in problems[1:] if "pip install" not in problem]
    return []


def test_the_manual_has_commands():
    assert len(OWN) > 60 and len(OTHERS) > 10 and len({command.page for command in OWN}) > 15


@pytest.mark.parametrize("command", OWN, ids=str)
def test_every_command_composes(command, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    monkeypatch.syspath_prepend(str(desk))
    monkeypatch.setenv("JUDGE_KEY", "a-key")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    words = command.experiment
    several = any(SEVERAL_GPUS.search(word) for word in words) and "hardware.device=cpu" not in words
    monkeypatch.setattr("lexalign.config.hardware.count_cuda_devices", lambda: 8 if several else 0)
    monkeypatch.setattr("lexalign.config.hardware.get_cuda_memory", lambda: 8e10)
    monkeypatch.setattr("lexalign.config.hardware.is_torch_cpu_build", lambda: not several)
    assert find_problems(words, capsys) == [], f"{command}: python run.py {shlex.join(words)}"


def test_a_command_that_does_not_compose_is_noticed(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    assert find_problems(["stage=align", "method=dpo", "method.betta=1"], capsys)
    assert find_problems(["-m", "seed=0,1", "train.learning_rate=fast"], capsys)
    assert find_problems(["data=pairs", "data.path=nowhere.jsonl", "stage=align"], capsys)
    page = desk / "page.md"
    page.write_text("a\n\n```bash\nA=1 echo 'x && y' | python run.py \\\n  seed=1   # why\n```\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", desk)
    assert list(read_commands(page)) == [Command("page.md", 4, ("echo", "x && y")), Command("page.md", 4, ("python", "run.py", "seed=1"))]


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


@functools.cache
def load_generator() -> ModuleType:
    """docs/generate_configuration.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_configuration", DOCS / "generate_configuration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def list_options(group: str) -> list[str]:
    """The options of a group of conf/."""
    return load_generator().list_options(group)


@functools.cache
def list_keys() -> frozenset[str]:
    """Every setting with its dotted key, and every group of settings."""
    module = load_generator()
    classes = [item for item in vars(schema).values() if isinstance(item, type) and issubclass(item, schema.Method)]
    keys = {key for key, *_ in module.walk_settings(schema.Experiment, "")}
    keys |= {key for cls in classes for key, *_ in module.walk_settings(cls, "method")}
    return frozenset(keys | {key.rsplit(".", cut)[0] for key in keys for cut in range(1, key.count(".") + 1)})


GROUPS = ("stage", "method", "adapter", "model", "data", "hardware", "tracking", "sweep", "experiment", "preflight", "cache")


def read_inline(page: Path) -> list[str]:
    """What stands in single backticks outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_setting_and_option_that_is_named_exists(page):
    unknown = []
    for code in read_inline(page):
        for word in code.replace("'", " ").replace('"', " ").split():
            key, equals, value = word.partition("=")
            if re.fullmatch(rf"({'|'.join(GROUPS)}|train|evaluate|export|chat|download)\.[a-z_]+[a-z_.]*", key):
                ending = key.rpartition(".")[2]
                unknown += [word] if key not in list_keys() and ending not in ("py", "json", "jsonl", "yaml") else []
            elif equals and key in GROUPS and re.fullmatch(r"[a-z0-9_/,]+", value):
                unknown += [word for option in value.split(",") if option not in (*list_options(key), "null")]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_file_and_name_of_code_exists(page):
    missing = []
    for code in read_inline(page):
        if re.fullmatch(r"(lexalign|conf|tests|bench|docs|\.ci)/[\w./-]*", code):
            missing += [] if (ROOT / code).exists() else [code]
        elif re.fullmatch(r"lexalign(\.\w+)+", code):
            missing += [] if is_code(code) else [code]
    assert missing == []


def is_code(path: str) -> bool:
    """Whether a dotted path leads to a module of ours, or to a name that its text defines or hands on."""
    at = ROOT / path.replace(".", "/")
    if at.is_dir() or at.with_suffix(".py").is_file():
        return True
    module, _, name = path.rpartition(".")
    file = next(
        (file for file in (ROOT / f"{module.replace('.', '/')}.py", ROOT / module.replace(".", "/") / "__init__.py") if file.is_file()),
        None,
    )
    return file is not None and re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) is not None


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs make it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_link_leads_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor and file.is_file() else []
        broken += [target] if not file.exists() or (anchor and anchor not in map(slug, headings)) else []
    assert broken == []


def test_the_page_of_the_settings_is_fresh():
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert page == load_generator().write_page(), "run: python docs/generate_configuration.py"


def test_the_settings_page_has_every_setting_and_option():
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    plain = {key for key in list_keys() if not any(other.startswith(f"{key}.") for other in list_keys())}
    assert {key for key in plain if f"`{key}`" not in text} == set()
    assert [f"{group}={name}" for group in GROUPS for name in list_options(group) if f"`{group}={name}`" not in text] == []


def read_table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the table whose head begins with `heading`, a list of cells each."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_readme_is_short_and_its_table_of_groups_is_whole():
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 170
    table = {group.strip("`"): set(re.findall(r"`([\w/]+)`", options)) for group, options, *_ in read_table(readme, "group")}
    assert set(table) >= {"stage", "method", "adapter", "model", "data", "hardware", "tracking", "sweep", "experiment"}
    for group, options in table.items():
        assert options == set(list_options(group)) - ({"none"} if group in ("data", "model") else set()), group


def test_readme_tells_the_four_gdpo_apart():
    rows = read_table(ROOT / "README.md", "config")
    assert [row[0] for row in rows] == ["`gdpo`", "`gdpo_soft`", "`gdpo_flow`", "`gdpo_rl`"]
    assert [re.search(r"\d{4}\.\d{5}", row[2])[0] for row in rows] == ["2412.20299", "2409.06691", "2410.15096", "2601.05242"]
    assert rows == read_table(DOCS / "methods" / "gdpo.md", "config")


def test_the_exit_codes_are_those_of_the_errors():
    listed = {int(code) for row in read_table(DOCS / "running.md", "exit code") for code in re.findall(r"\d+", row[0])}
    classes = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.LexAlignError)]
    assert listed == {0} | {cls.exit_code for cls in classes} | set(signals.CODES.values())


def test_the_twenty_tasks_lead_to_files():
    rows = read_table(ROOT / "CONTRIBUTING.md", "task")
    assert len(rows) >= 20
    for task, places in rows:
        paths = re.findall(r"`([^`]+)`", places)
        assert paths and all((ROOT / path).exists() for path in paths), task


def test_the_picture_of_the_architecture_has_every_room():
    picture = (DOCS / "img" / "architecture.svg").read_text(encoding="utf-8")
    rooms = {file.parent.name for file in (ROOT / "lexalign").glob("*/__init__.py")}
    assert {room for room in rooms if f">{room}/<" not in picture} == set()


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))
    assert listed == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_pictures_are_small():
    pictures = list((DOCS / "img").iterdir())
    assert {"sweep-report.png", "learning-curve.png", "architecture.svg"} <= {picture.name for picture in pictures}
    assert [picture.name for picture in pictures if picture.stat().st_size > 150_000] == []


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs-material is not installed: pip install mkdocs-material")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "configuration.html").is_file()


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


def test_the_words_of_other_toolkits_are_answered_as_the_page_says():
    """Keys on the page of migration that the program knows are answered with the setting that the page names."""
    from lexalign.config.parsing import OTHER_NAMES

    text = (DOCS / "migrating.md").read_text(encoding="utf-8")
    assert [f"{theirs} -> {ours}" for theirs, ours in OTHER_NAMES.items() if f"`{theirs}`" in text and f"`{ours}`" not in text] == []
    assert len([theirs for theirs in OTHER_NAMES if f"`{theirs}`" in text]) > 20


def test_the_schema_is_what_the_page_walks():
    assert {field.name for field in dataclasses.fields(schema.Experiment)} <= list_keys()
