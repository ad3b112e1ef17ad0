"""The generated arithmetic: right answers are right, wrong ones wrong, nothing leaks; and accuracy measured on pairs."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys

import pytest
from experiment_runner import World

from lexalign.config.compose import compose
from lexalign.config.paths import find_data
from lexalign.embedded import reasoning
from lexalign.errors import ConfigError, DataError

needs_gym = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="missing: pip install -e '.[reasoning]'")
SIZES = {"test": 10, "sft": 30, "pairs": 20}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@needs_gym
def test_answers_are_what_they_are_said_to_be_and_no_question_leaks(tmp_path):
    reasoning.make_reasoning_data(tmp_path, sizes=SIZES)
    parts = {name: read(tmp_path / f"{name}.jsonl") for name in ("sft/train", "sft/test", "pairs/train", "pairs/test")}
    assert [len(rows) for rows in parts.values()] == [30, 10, 20, 10]
    for row in parts["pairs/train"] + parts["pairs/test"]:
        first, sign, second = row["prompt"].removeprefix("Calculate ").removesuffix(".").split()
        total = int(first) + int(second) if sign == "+" else int(first) - int(second)
        assert int(row["chosen"]) == total != int(row["rejected"])
    asked = [{row["prompt"] for row in rows} for rows in parts.values()]
    assert asked[1] == asked[3] and not (asked[0] & asked[1] or asked[0] & asked[2] or asked[1] & asked[2])
    reasoning.make_reasoning_data(tmp_path / "again", sizes=SIZES)
    assert read(tmp_path / "again" / "pairs" / "train.jsonl") == parts["pairs/train"]


@needs_gym
def test_it_is_made_on_first_use_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = find_data("generated:reasoning/pairs")
    assert place.kind == "folder" and (place.path / "train.jsonl").is_file()
    monkeypatch.setattr(reasoning, "make_reasoning_data", lambda *_: pytest.fail("made again"))
    assert find_data("generated:reasoning/pairs") == place
    assert "not generated:reasoning/nothing" in find_data("generated:reasoning/nothing").problem


@needs_gym
def test_the_command_says_what_it_wrote_or_what_is_wrong(tmp_path):
    def command(*words):
        return subprocess.run(
            [sys.executable, "-m", "lexalign.embedded.reasoning", "--out", str(tmp_path), *words],
            capture_output=True,
            text=True,
            timeout=120,
        )

    done = command("--sft", "5", "--pairs", "4", "--test", "3", "--seed", "7")
    assert done.returncode == 0 and f"{tmp_path}/pairs/train.jsonl: 4 rows" in done.stdout
    short = command("--digits", "1")
    assert short.returncode == 1 and "different questions with 1 digits" in short.stderr and "Traceback" not in short.stderr


def test_without_the_library_the_error_names_the_extra(monkeypatch, tmp_path):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(DataError, match=r"pip install -e '\.\[reasoning\]'"):
        reasoning.ensure_folder("sft", tmp_path)
    assert "[reasoning]" in find_data("generated:reasoning/sft").problem


def test_a_gguf_base_is_not_quantized_again(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="a .gguf base is unpacked to train, not quantized again"):
        compose(["method=qlora", "model=none", f"model.path={tmp_path}/model.gguf"])


def test_accuracy_is_measured_on_pairs_that_name_their_answer(tmp_path):
    shared = ("stage=align", "model=tiny", "data.limit=8", "train.max_steps=1", "evaluate.samples=0")
    plain, _ = World(tmp_path).run(*shared)
    asked, _ = World(tmp_path).run(*shared, "data.columns.completion=chosen")
    assert set(asked.metrics["after"]) - set(plain.metrics["after"]) == {"exact_match", "loss"}
