"""The manual as data: its pages, fenced blocks, commands, inline code and tables; and the generator of the page of settings."""

import functools
import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import lexalign
from lexalign.config import schema

ROOT = Path(lexalign.__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "bench/README.md", "lexalign/embedded/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
BLOCK = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SHELL = ("bash", "console", "sh")
REDIRECTIONS = (">", ">>", "2>", "<")
GROUPS = ("stage", "method", "adapter", "model", "data", "hardware", "tracking", "sweep", "experiment", "preflight", "cache")


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
    """The commands of one shell line, between `&&`, `|` and `;`; its variables and redirections are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;"):
            commands.append([])
        elif commands[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            commands[-1].append(word)
    kept = [words[: next((at for at, word in enumerate(words) if word in REDIRECTIONS), None)] for words in commands]
    return [tuple(words) for words in kept if words]


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


def read_inline(page: Path) -> list[str]:
    """What stands in single backticks outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text(encoding="utf-8")))


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
