"""The files of a data set: every format, good and bad; and the converters of the public data sets."""

from typing import Any

import pytest
from data_files import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lexalign.data import converters
from lexalign.data.files import find_split_file, read_rows
from lexalign.errors import DataError

TEXTS = st.text(min_size=1).filter(str.strip)
ASKED, ANSWERED = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(table=st.lists(st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS}), min_size=1, max_size=4))
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_rows_back(kind, table, tmp_path):
    if kind == "csv":  # its reader takes \r for the end of a line, as the standard says, and no NUL
        table = [{key: text.replace("\r", "\n").replace("\0", "0") for key, text in row.items()} for row in table]
    file = write(tmp_path / f"rows.{kind}", kind, table)
    assert find_split_file(file, "train", "auto") == (file, kind)
    assert [row for _, row in read_rows(file, kind)] == table


def test_a_long_document_fits_into_a_field(tmp_path):
    table = [{"text": "word " * 100_000}]
    assert [row for _, row in read_rows(write(tmp_path / "long.csv", "csv", table), "csv")] == table


def test_rows_know_where_they_stand(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    (tmp_path / "a.csv").write_text('a,b\n"x\ny",1\nz,2\n')
    assert [where for where, _ in read_rows(tmp_path / "a.jsonl", "jsonl")] == [f"{tmp_path}/a.jsonl:{line}" for line in (1, 2)]
    assert [where for where, _ in read_rows(tmp_path / "a.csv", "csv")] == [f"{tmp_path}/a.csv:{line}" for line in (3, 4)]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    for kind, text in (("csv", "a\n1\n"), ("jsonl", '{"a": "1"}\n'), ("json", '[{"a": "1"}]')):
        file = tmp_path / f"rows.{kind}"
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [row for _, row in read_rows(file, kind)] == [{"a": "1"}]


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("jsonl", '{"a": 1}\n{"a": }\n', ":2: is not JSON (Expecting value at column 7)"),
        ("jsonl", '{"a": 1}\n\n{"a": 2}\n', ":2: the line is empty; remove it"),
        ("jsonl", '{"a": 1}\n["a"]\n', ":2: holds list, not an object with columns"),
        ("json", '[{"a": 1},\n {"a": ]', ":2: is not JSON"),
        ("json", '{"a": 1}\n{"a": 2}\n', ":2: is not JSON (Extra data at column 1); it looks like one object a line: name the file .jsonl"),
        ("json", '{"a": 1}', ": holds dict; expected a list of objects"),
        ("json", '[{"a": 1}, 2]', ": row 2 is int, not an object with columns"),
        ("csv", "a,b\n1,2\n1\n", ":3: the row has 1 fields, the header 2; quote texts that hold commas"),
        ("csv", "a,b\n1,2,3\n", ":2: the row has 3 fields, the header 2; quote texts that hold commas"),
        ("csv", 'a,b\n1,"2"x\n', ":2: is not CSV"),
        ("csv", "a,b,a\n1,2,3\n", ":1: the header has 'a' more than once; rename the columns"),
        ("parquet", "no parquet at all", ": is not Parquet, or damaged ("),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(kind, text, said, tmp_path):
    file = tmp_path / f"rows.{kind}"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        list(read_rows(file, kind))
    assert str(caught.value).startswith(f"{file}{said}")


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_another_encoding_is_named(kind, tmp_path):
    file = tmp_path / f"rows.{kind}"
    file.write_bytes({"csv": "a\né\n", "json": '[{"a": "é"}]', "jsonl": '{"a": "é"}\n'}[kind].encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 .*0xe9.*; save it as UTF-8"):
        list(read_rows(file, kind))


def test_the_file_of_a_split(tmp_path):
    for name in ("train.jsonl", "test.csv", "both.csv", "both.json", "notes.txt"):
        (tmp_path / name).write_text("")
    assert find_split_file(tmp_path, "test", "auto") == (tmp_path / "test.csv", "csv")
    assert find_split_file(tmp_path, "both", "csv") == (tmp_path / "both.csv", "csv")
    assert find_split_file(tmp_path / "notes.txt", "train", "jsonl") == (tmp_path / "notes.txt", "jsonl")
    for place, split, wanted, said in (
        (tmp_path, "dev", "auto", r"no dev.jsonl or .json or .csv or .parquet, but both.csv, both.json, test.csv, train.jsonl"),
        (tmp_path, "train", "csv", r"no train.csv, but .*train.jsonl"),
        (tmp_path, "both", "auto", "both.json and both.csv; there must be one file for the split 'both'"),
        (tmp_path / "train.jsonl", "test", "auto", "is one file, so it has no split 'test'; .* or data.eval_split=null"),
        (tmp_path / "notes.txt", "train", "auto", "the ending tells no format; type data.format=jsonl"),
        (tmp_path / "test.csv", "train", "json", "data.format=json, but the ending says csv; type data.format=auto"),
    ):
        with pytest.raises(DataError, match=said):
            find_split_file(place, split, wanted)


# Converters, on rows as the public data sets store them.
def test_alpaca():
    row = {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "…"}
    assert converters.alpaca(row) == {"prompt": "Add.\n\n1, 2", "completion": "3"}
    assert converters.alpaca({**row, "input": ""}) == {"prompt": "Add.", "completion": "3"}
    assert converters.alpaca({**row, "output": " "}) is None


DIALOGUE = "\n\nHuman: Hi\n\nAssistant: Hello.\nHow are you?\n\nHuman: Fine\n\nAssistant:{}"


def test_hh_dialogue():
    converted = converters.hh_dialogue({"chosen": DIALOGUE.format(" Good."), "rejected": DIALOGUE.format(" So?")})
    assert converted == {
        "prompt": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello.\nHow are you?"},
            {"role": "user", "content": "Fine"},
        ],
        "chosen": "Good.",
        "rejected": "So?",
    }
    for chosen, rejected in ((" a", ""), (" a", " a"), (" a\n\nHuman: b", " c"), ("", " c")):
        assert converters.hh_dialogue({"chosen": DIALOGUE.format(chosen), "rejected": DIALOGUE.format(rejected)}) is None
    assert converters.hh_dialogue({"chosen": "no dialogue", "rejected": "either"}) is None


def test_last_turns():
    def row(chosen: str, rejected: str) -> dict[str, Any]:
        turns = [[ASKED, {"role": "assistant", "content": text}] for text in (chosen, rejected)]
        return {"prompt": "a", "chosen": turns[0], "rejected": turns[1], "score_chosen": 8.0}

    assert converters.last_turns(row("x", "y")) == {"prompt": [ASKED], "chosen": "x", "rejected": "y"}
    assert [converters.last_turns(row(*texts)) for texts in (("x", "x"), ("x", " "), ("", "y"))] == [None, None, None]
    assert converters.last_turns({**row("x", "y"), "rejected": [ASKED, ASKED, ANSWERED]}) is None
