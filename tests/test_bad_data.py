"""Rubbish as data: refused before a model loads, with the file, the line and the field, in bounded time. And good data in good time."""

import dataclasses
import logging
import os
import time
from pathlib import Path

import pytest
from bad_data_files import BELIEFS, GOOD, LABELS, MESSAGES, PAIR, PAIRS, jsonl
from command_line_problems import judged
from data_files import write

from lexalign.config.compose import compose
from lexalign.data import rows
from lexalign.errors import DataError

KINDS = {
    "stage=align model=tiny data=pairs": PAIRS,
    "stage=sft model=tiny data=messages": MESSAGES,
    "stage=align model=tiny method=gdpo data=beliefs data.beliefs=[for,against] data.columns.rejected_belief=null": BELIEFS,
    "stage=align model=tiny method=gdpo_soft data=pairs data.columns.soft_label=soft_label": LABELS,
}
FILES = [(base, name) for base, files in KINDS.items() for name in files]
A_ROW = (
    "stage=align model=tiny data=pairs data.path=embedded:tiny_pairs data.eval_split=null data.eval_fraction=null evaluate.enabled=false"
)


def refusals(base: str, path: Path) -> list[str]:
    """What a run on this path is refused with: by the rules, or else by the first reading of the rows. Nothing where it would run."""
    if problems := judged(f"{base} data.path=embedded:tiny_pairs", f"data.path={path}"):
        return problems
    experiment = compose([*base.split(), f"data.path={path}"]).experiment
    try:
        rows.load_rows(experiment)
    except DataError as error:
        return [str(error)]
    return []


def test_there_are_sixty_files():
    assert len(FILES) >= 80


@pytest.mark.parametrize(("base", "name"), FILES)
def test_a_bad_file_is_refused_with_its_place(base, name, tmp_path):
    content, said = KINDS[base][name]
    file = tmp_path / name
    file.write_bytes(content)
    begun = time.process_time()
    found = refusals(base, file)
    assert any(f"{file}{said}" in problem for problem in found), found
    assert max(map(len, found)) < 1000
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_marks_and_line_ends_of_other_systems_are_read(kind, tmp_path):
    file = write(tmp_path / f"rows.{kind}", kind, [{**PAIR, "prompt": f"p{number}"} for number in range(3)])
    plain = rows.load_rows(on(file)).train
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert rows.load_rows(on(file)).train == plain and len(plain) == 3


def on(path: Path, base: str = A_ROW):
    experiment = compose(base.split()).experiment
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, path=str(path)))


def test_parquet_of_another_schema_and_damaged_parquet(tmp_path):
    base = next(iter(KINDS))
    other = write(tmp_path / "other.parquet", "parquet", [{"instruction": "p", "output": "c"}])
    assert f"{other} has no column 'prompt'; it has instruction, output" in refusals(base, other)[0]
    typed = write(tmp_path / "typed.parquet", "parquet", [PAIR, {**PAIR, "chosen": None}])
    assert refusals(base, typed) == [f"{typed}: row 2: 'chosen' is null"]
    numbers = write(tmp_path / "numbers.parquet", "parquet", [{**PAIR, "chosen": 1.5}])
    assert refusals(base, numbers) == [f"{numbers}: row 1: 'chosen' is float (1.5), expected text"]
    torn = write(tmp_path / "torn.parquet", "parquet", [{**PAIR, "prompt": f"p{number}"} for number in range(5000)])
    whole = bytearray(torn.read_bytes())
    whole[40:4000] = bytes(3960)  # the pages are gone, the footer still tells of them
    torn.write_bytes(whole)
    assert f"{torn}: is not Parquet, or damaged" in refusals(base, torn)[0]


def test_what_is_no_file_is_refused_and_nothing_waits(tmp_path):
    base = next(iter(KINDS))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name, said in (
        ("pipe", "is neither a file nor a folder"),
        ("dangling", "is a link that leads nowhere"),
        ("round", "is a link that leads nowhere"),
        ("gone.jsonl", "there is no file or folder"),
        ("/dev/zero", "/dev/zero is neither a file nor a folder"),
        ("/dev/null", "/dev/null is neither a file nor a folder"),
    ):
        assert any(said in problem for problem in refusals(base, tmp_path / name)), name


def test_a_folder_without_rows_to_read(tmp_path):
    base = next(iter(KINDS))
    assert "holds no train.jsonl or .json or .csv or .parquet, but none of a known format" in refusals(base, tmp_path)[0]
    (tmp_path / "test.jsonl").write_bytes(GOOD)
    assert "holds no train.jsonl or .json or .csv or .parquet, but test.jsonl" in refusals(base, tmp_path)[0]
    train = tmp_path / "train.jsonl"
    for make, said in (
        (train.mkdir, "is a folder, not a file with rows"),
        (lambda: train.symlink_to(tmp_path / "gone"), "is a link that leads nowhere, not a file with rows"),
        (lambda: train.symlink_to("/dev/zero"), "is neither a file nor a folder, not a file with rows"),
        (lambda: os.mkfifo(train), "is neither a file nor a folder, not a file with rows"),
    ):
        make()
        assert f"{train}: {said}" in refusals(base, tmp_path)[0]
        train.rmdir() if train.is_dir() and not train.is_symlink() else train.unlink()


def test_repeated_rows_are_counted_and_said(tmp_path, caplog):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD + jsonl({**PAIR, "prompt": "q"}) + GOOD)
    with caplog.at_level(logging.WARNING):
        assert rows.load_rows(on(file)).counts["train_rows_repeated"] == 1
    assert f"1 rows of the split 'train' repeat an earlier one (first: {file}:3 repeats {file}:1)" in caplog.text


def test_a_hundred_thousand_rows_are_checked_in_ten_seconds(tmp_path):
    words = "the old bridge and the water mill "
    table = [{"prompt": f"{number} {words * 4}", "chosen": f"{words * 8}{number}", "rejected": words * 8} for number in range(100_000)]
    experiment = on(write(tmp_path / "rows.jsonl", "jsonl", table))
    begun = time.process_time()
    assert len(rows.load_rows(experiment).train) == 100_000
    assert time.process_time() - begun < 10
