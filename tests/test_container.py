"""The Dockerfile, read: no daemon is at hand here, so it is not built. What it copies, pins and starts has to be there."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KNOWN = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT"}


def read_instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments) of each line; lines that end with a backslash go on."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_every_instruction_is_known_and_the_base_is_pinned():
    instructions = read_instructions()
    assert {name for name, _ in instructions} <= KNOWN
    base = instructions[0][1]
    assert re.fullmatch(r"python:3\.1[1-9]-slim", base)


def test_what_it_copies_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name, rest in read_instructions():
        if name == "COPY":
            *sources, _ = rest.split()
            assert [source for source in sources if not (ROOT / source).exists() or source.rstrip("/") in ignored] == []


def test_it_installs_the_tested_torch_from_an_index_that_can_be_chosen():
    arguments = dict(rest.split("=", 1) for name, rest in read_instructions() if name == "ARG")
    pinned = re.search(r"^torch==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None and arguments["TORCH_VERSION"] == pinned[1]
    assert arguments["TORCH_INDEX"] == "https://download.pytorch.org/whl/cpu"
    runs = " ; ".join(rest for name, rest in read_instructions() if name == "RUN")
    assert '--index-url "${TORCH_INDEX}"' in runs and "-c constraints.txt" in runs and "torch==${TORCH_VERSION}" in runs


def test_it_starts_the_installed_command_as_an_ordinary_user():
    instructions = read_instructions()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ("ENTRYPOINT", '["lexalign"]') in instructions and "lexalign" in project["scripts"]
    names = [name for name, _ in instructions]
    assert names.index("USER") < names.index("ENTRYPOINT") and dict(instructions)["USER"] != "root"
