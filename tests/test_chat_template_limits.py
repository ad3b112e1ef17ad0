"""A tokenizer's chat template is a program by a stranger: it may take little time, little memory, and write little."""

import shutil
import time
from pathlib import Path

import pytest
from experiment_runner import World
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
