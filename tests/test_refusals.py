"""Wrong command lines: each is refused, and the message names the key and what to type instead. Nothing is run, nothing written."""

import functools
import json
from pathlib import Path

import pytest
from command_line_problems import judged, problems_of, said
from wrong_command_lines import ALONE, RULED, WRONG_KEYS, WRONG_SETTINGS, WRONG_VALUES

PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A user's folder, with things to name by mistake."""
    folder = tmp_path_factory.mktemp("desk")

    def write(name: str, text: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")

    write("pairs.jsonl", json.dumps(PAIR) + "\n")
    write("odd.jsonl", json.dumps({"prompt": "p", "chosn": "c", "rejected": "r"}) + "\n")
    write("broken.jsonl", "{prompt: p}\n")
    write("empty.jsonl", "")
    write("list.json", json.dumps(PAIR) + "\n" + json.dumps(PAIR) + "\n")
    write("table.csv", "prompt,chosen,rejected\np,c,r\n")
    write("notes.rst", "no data\n")
    write("both/train.jsonl", json.dumps(PAIR) + "\n")
    write("both/train.csv", "prompt,chosen,rejected\np,c,r\n")
    write("split/train.jsonl", json.dumps(PAIR) + "\n")
    write("believers.jsonl", json.dumps({**PAIR, "belief": 0}) + "\n")
    write("model.gguf", "GGUF")
    write("pytorch_model.bin", "pickle")
    write("pickled/config.json", "{}")
    write("pickled/pytorch_model.bin", "pickle")
    write("no_model/readme.txt", "nothing")
    write("exported/artifact/manifest.json", "{}")
    (folder / "dangling").symlink_to(folder / "gone")
    return folder


@pytest.fixture(autouse=True)
def at_the_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # As on a laptop without an accelerator, wherever the tests run.
    monkeypatch.setattr("lexalign.config.hardware.count_cuda_devices", lambda: 0)
    monkeypatch.setattr("lexalign.config.hardware.has_mps", lambda: False)


TOGETHER = {"values": WRONG_VALUES, "settings": WRONG_SETTINGS, "keys": WRONG_KEYS}


@functools.cache
def problems_together(kind: str) -> list[str]:
    return problems_of([word for words in TOGETHER[kind] for word in words.split()])


@pytest.mark.parametrize(("kind", "words"), [(kind, words) for kind, cases in TOGETHER.items() for words in cases])
def test_refused_among_others(kind, words):
    assert said(problems_together(kind), *TOGETHER[kind][words]), problems_together(kind)


@pytest.mark.parametrize("kind", ["values", "keys"])
def test_every_problem_is_told_once(kind):
    problems = problems_together(kind)
    assert len(problems) == len(set(problems)) == len(TOGETHER[kind])


def test_types_and_rules_are_told_together():
    """The rules judge the settings whose types are right."""
    problems = problems_of("train.epochs=many resume=gone trian.seed=1 method=gpdo")
    assert [problem.split(":")[0] for problem in sorted(problems)] == ["method=gpdo", "resume=gone", "train.epochs=many", "trian.seed"]


@pytest.mark.parametrize(("base", "typed"), [(base, typed) for base, cases in RULED.items() for typed in cases])
def test_the_rules_refuse(base, typed):
    problems = judged(base, typed)
    assert said(problems, *RULED[base][typed]), problems


@pytest.mark.parametrize("words", ALONE)
def test_refused_with_the_key_and_what_to_type(words):
    problems = problems_of(words)
    assert said(problems, *ALONE[words]), problems


def test_long_lists_are_cut():
    problems = problems_of([f"nonsense{number}=1" for number in range(40)])
    assert len(problems) == 31 and problems[-1].endswith("and 10 more")


def test_other_platforms_are_told_too(monkeypatch):
    monkeypatch.setattr("lexalign.config.hardware.has_mps", lambda: True)
    assert said(problems_of("hardware=mps method=qlora"), "adapter=qlora: bitsandbytes does not run on mps; type adapter=lora")
    assert said(problems_of("hardware=mps train.optimizer=adamw_8bit"), "train.optimizer=adamw_8bit", "adamw_torch")
    monkeypatch.setattr("lexalign.config.hardware.count_cuda_devices", lambda: 1)
    monkeypatch.setattr("lexalign.config.hardware.is_torch_cpu_build", lambda: True)
    assert said(problems_of("hardware=cuda"), "hardware=cuda: the installed torch is a CPU build")


def test_what_a_model_in_parts_cannot_do(monkeypatch):
    monkeypatch.setattr("lexalign.config.hardware.count_cuda_devices", lambda: 2)
    monkeypatch.setattr("lexalign.config.hardware.is_torch_cpu_build", lambda: False)
    assert said(problems_of("hardware=fsdp method=qlora adapter.bits=8"), "adapter.bits=8: FSDP2 would part", "type adapter.bits=4")
    assert said(problems_of("hardware=fsdp train.optimizer=adamw_8bit"), "train.optimizer=adamw_8bit", "type train.optimizer=adamw_torch")
    assert said(problems_of("hardware=fsdp evaluate.tasks=[arc_easy]"), "evaluate.tasks: lm-eval runs in one process", "stage=evaluate")
    assert said(problems_of("hardware=fsdp hardware.zero=3"), "hardware.zero: is DeepSpeed's")


def test_nothing_was_written(desk):
    assert not {"multirun", "outputs", "wandb"} & {path.name for path in desk.iterdir()}
