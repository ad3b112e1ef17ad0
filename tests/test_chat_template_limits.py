"""A tokenizer's chat template is a program by a stranger: it may take little time, little memory, and write little."""

import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from experiment_runner import ROOT, World
from transformers import AutoTokenizer

import lexalign
from lexalign.data import chat_template
from lexalign.errors import ConfigError

TINY = Path(lexalign.__file__).parent / "embedded" / "tiny"
BOMBS = {
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}": "does not come to an end within 2 s",
    "{{ 'a' * 10000000000 }}": "takes more than 1024 MiB",
    "{{ 'a' * 3000000 }}": "makes more than 1,048,576 characters",
    "x" * (2 << 20): "has 2,097,152 characters",
}


@pytest.mark.parametrize("bomb", BOMBS, ids=BOMBS.values())
def test_a_bomb_is_refused(bomb):
    tokenizer, started = AutoTokenizer.from_pretrained(TINY), time.monotonic()
    tokenizer.chat_template = bomb
    with pytest.raises(ConfigError, match="type data.chat_template=never") as caught:
        chat_template.check_template(tokenizer, "some/model")
    assert BOMBS[bomb] in str(caught.value) and "some/model" in str(caught.value)
    assert time.monotonic() - started < 25


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no such turns') }}", (TINY / "chat_template.jinja").read_text()])
def test_an_honest_template_passes(template):
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = template
    chat_template.check_template(tokenizer, "some/model")


def test_a_run_meets_it_before_the_data(tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ 'a' * 10000000000 }}")
    with pytest.raises(ConfigError, match="takes more than 1024 MiB"):
        World(tmp_path).run("stage=sft", f"model.path={tmp_path / 'model'}")


@pytest.fixture
def memory_limit():
    """A function that limits the memory of this process to what it has and so many bytes more, as `ulimit -Sv` does."""
    before = resource.getrlimit(resource.RLIMIT_AS)

    def limit(more: int) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + more, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_within_a_limit_on_memory_an_honest_template_passes_and_a_bomb_is_refused(memory_limit):
    honest, bomb = AutoTokenizer.from_pretrained(TINY), AutoTokenizer.from_pretrained(TINY)
    bomb.chat_template = "{{ 'a' * 10000000000 }}"
    memory_limit(200 << 20)
    chat_template.check_template(honest, "some/model")
    with pytest.raises(ConfigError, match=r"takes more than (200|1\d\d) MiB .*, which is what the limit on this process"):
        chat_template.check_template(bomb, "some/model")


def test_a_child_that_fails_never_goes_on_as_the_run(monkeypatch):
    parent, tokenizer = os.getpid(), AutoTokenizer.from_pretrained(TINY)

    def fail(kind: int, most: int) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(chat_template, "lower_limit", fail)
    with pytest.raises(ConfigError, match="cannot be tried: .* ended with exit code 12"):
        chat_template.check_template(tokenizer, "some/model")
    assert os.getpid() == parent


@pytest.mark.slow
def test_a_run_within_a_hard_limit_as_a_scheduler_sets_it(tmp_path):
    """`ulimit -v` below what rendering may take at most: the run needs less and ends well."""
    words = "tracking=none evaluate.enabled=false hardware.threads=1 train.max_steps=2 preflight=skip output_dir=run store=store"
    command = f"ulimit -v 3000000 && exec {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'run.py'))} {words}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in (tmp_path / "run").glob("*.lock")) == []
