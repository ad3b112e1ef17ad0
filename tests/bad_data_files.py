"""Files that hold no rows to train on: what each is called and holds, and what must be said of it after its name."""

import json
from typing import Any

PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
GOOD = (json.dumps(PAIR) + "\n").encode()
SHARED = {**PAIR, "belief": "for", "probabilities": [0.5, 0.5]}


def jsonl(*rows: Any) -> bytes:
    """Rows as one object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def second(**change: Any) -> bytes:
    """A good pair, and in the second line one with changes."""
    return jsonl(PAIR, {**PAIR, **change})


def without(name: str) -> dict[str, str]:
    """A pair that lacks a column."""
    return {key: value for key, value in PAIR.items() if key != name}


# Data chosen -> name of the file (or file/what) -> its bytes, and what is said of it.
PAIRS: dict[str, tuple[bytes, str]] = {
    # The file as a whole.
    "empty.jsonl": (b"", " holds no rows"),
    "empty.csv": (b"", " holds no rows"),
    "empty.json": (b"", ":1: is not JSON (Expecting value at column 1)"),
    "empty.parquet": (b"", ": is not Parquet, or damaged"),
    "blank.jsonl": (b" \n\t\n", ":1: the line is empty; remove it"),
    "blank.json": (b" \n ", ":2: is not JSON (Expecting value"),
    "blank.csv": (b"\n\n", ":1: the header is empty; write the names of the columns"),
    "spaces.csv": (b"  ,  \np,c\n", ":1: the header is empty"),
    "list.json": (b"[]", " holds no rows"),
    "header.csv": (b"prompt,chosen,rejected\n", " holds no rows"),
    "mark.jsonl": (b"\xef\xbb\xbf", " holds no rows"),
    # Bytes that are no UTF-8, or no text.
    "latin.jsonl": (GOOD + second(chosen="X")[:-1].replace(b"X", b"caf\xe9"), ":3: is not UTF-8 (byte 31 of the line is 0xe9); save it"),
    "latin.json": (b'[{"prompt": "\xfc"}]', ":1: is not UTF-8 (byte 14 of the line is 0xfc)"),
    "latin.csv": (b"prompt,chosen,rejected\np,c,\xdf\n", ":2: is not UTF-8 (byte 5 of the line is 0xdf)"),
    "wide.jsonl": (GOOD.decode().encode("utf-16"), ": is UTF-16 or UTF-32; save it as UTF-8"),
    "wide.json": (json.dumps([PAIR]).encode("utf-32"), ": is UTF-16 or UTF-32; save it as UTF-8"),
    "big.csv": (b"\xfe\xff" + "prompt\n".encode("utf-16-be"), ": is UTF-16; save it as UTF-8"),
    "unmarked.jsonl": (GOOD.decode().encode("utf-16-le"), ":1: is not JSON (Expecting property name enclosed in double quotes at column 2);"
                       " it holds NUL bytes, as UTF-16 does: save it as UTF-8"),
    "zipped.jsonl": (b"\x1f\x8b\x08\x00rest", ": is gzip-compressed; unpack it first"),
    "zipped.csv": (b"\x1f\x8b\x08\x00rest", ": is gzip-compressed; unpack it first"),
    "zipped.parquet": (b"\x1f\x8b\x08\x00rest", ": is gzip-compressed; unpack it first"),
    "zstd.jsonl": (b"\x28\xb5\x2f\xfdrest", ": is zstd-compressed; unpack it first"),
    "table.csv": (b"PK\x03\x04xl/workbook", ": is a zip archive (as .xlsx files are)"),
    "columns.jsonl": (b"PAR1\x15\x04", ": is Parquet; name it .parquet"),
    "text.parquet": (b"prompt,chosen,rejected\n", ": is not Parquet, or damaged"),
    "torn.parquet": (b"PAR1" + b"\0" * 40 + b"PAR1", ": is not Parquet, or damaged"),
    "notes.txt": (GOOD, ": the ending tells no format; type data.format=jsonl"),
    "rows.tsv": (b"prompt\tchosen\trejected\n", ": the ending tells no format"),
    "rows.jsonl.gz": (b"\x1f\x8b\x08\x00rest", ": the ending tells no format"),
    # JSON.
    "first.jsonl": (b"{prompt: p}\n" + GOOD, ":1: is not JSON (Expecting property name enclosed in double quotes at column 2)"),
    "middle.jsonl": (GOOD * 4 + b'{"prompt": "p", "chosen": }\n' + GOOD * 4, ":5: is not JSON (Expecting value at column 27)"),
    "last.jsonl": (GOOD * 4 + GOOD[:-3], ":5: is not JSON (Unterminated string starting at"),
    "gap.jsonl": (GOOD + b"\n" + GOOD, ":2: the line is empty; remove it"),
    "list.jsonl": (json.dumps([PAIR]).encode(), ":1: holds list, not an object with columns; it looks like one list of rows"),
    "open.jsonl": (b"[\n" + GOOD + b"]\n", ":1: is not JSON (Expecting value at column 2); it looks like one list of rows"),
    "pretty.jsonl": (json.dumps(PAIR, indent=1).encode(), ":1: is not JSON (Expecting property name enclosed in double quotes at column 2);"
                     " one whole row must stand in each line"),
    "number.jsonl": (GOOD + b"7\n", ":2: holds int, not an object with columns"),
    "twice.jsonl": (GOOD + b'{"prompt": "p", "chosen": "c", "chosen": "d"}\n', ":2: cannot be read as JSON (the key 'chosen'"
                    " stands twice in one object)"),
    "twice.json": (b'[{"prompt": "p", "prompt": "q"}]', ": cannot be read as JSON (the key 'prompt' stands twice in one object)"),
    "digits.jsonl": (GOOD + b'{"prompt": ' + b"1" * 5000 + b"}\n", ":2: cannot be read as JSON (Exceeds the limit (4300 digits)"),
    "deep.jsonl": (GOOD + b'{"prompt": ' + b"[" * 200_000 + b"}\n", ":2: cannot be read as JSON (too deeply nested)"),
    "broken.json": (b'[{"prompt": "p"},\n {"prompt": ]', ":2: is not JSON (Expecting value at column 13)"),
    "lines.json": (GOOD * 2, ":2: is not JSON (Extra data at column 1); it looks like one object a line: name the file .jsonl"),
    "object.json": (GOOD, ": holds dict; expected a list of objects"),
    "mixed.json": (b"[" + GOOD + b", 2]", ": row 2 is int, not an object with columns"),
    "long.jsonl": (GOOD + b'{"prompt": "' + b"w " * 25_000_000 + b'"}\n', ":2: the line is longer than 16,777,216 characters"),
    "long.json": (b'[{"prompt": "' + b"w " * 9_000_000 + b'", "chosen": "c", "rejected": "r"}]', ": row 1: 'prompt' holds 18,000,000"),
    # CSV.
    "ragged.csv": (b"prompt,chosen,rejected\np,c,r\np,c\n", ":3: the row has 2 fields, the header 3; quote texts that hold commas"),
    "more.csv": (b"prompt,chosen,rejected\np,c,r,x\n", ":2: the row has 4 fields, the header 3"),
    "gap.csv": (b"prompt,chosen,rejected\np,c,r\n\np,c,r\n", ":3: the line is empty; remove it"),
    "quote.csv": (b'prompt,chosen,rejected\np,c,r\np,"c,r\np,c,r\n', ":3: is not CSV (unexpected end of data); a quote"),
    "after.csv": (b'prompt,chosen,rejected\np,"c"d,r\n', ":2: is not CSV (',' expected after '\"')"),
    "endless.csv": (b'prompt,chosen,rejected\np,"' + b"w " * 9_000_000, ":2: is not CSV (field larger than field limit (16777216))"),
    "twice.csv": (b"prompt,chosen,rejected,chosen\np,c,r,d\n", ":1: the header has 'chosen' more than once; rename the columns"),
    "semicolon.csv": (b"prompt;chosen;rejected\np;c;r\n", ":1: the header is one field, 'prompt;chosen;rejected'"),
    "tab.csv": (b"prompt\tchosen\trejected\np\tc\tr\n", ":1: the header is one field"),
    "cell.csv": (b"prompt,chosen,rejected\np,,r\n", ":2: 'chosen' is empty"),
    # Columns.
    "column.jsonl": (jsonl({**without("chosen"), "chosn": "c"}), " has no column 'chosen'; it has prompt, rejected, chosn; type"),
    "column.csv": (b"prompt,chosen,Rejected\np,c,r\n", " has no column 'rejected'; it has prompt, chosen, Rejected; type"),
    "later.jsonl": (jsonl(PAIR, without("rejected")), ":2: has no column 'rejected'; it has prompt, chosen; type"),
    # One row.
    "null.jsonl": (second(chosen=None), ":2: 'chosen' is null"),
    "number_field.jsonl": (second(prompt=7), ":2: 'prompt' is int (7), expected text"),
    "nan.jsonl": (second(prompt=float("nan")), ":2: 'prompt' is float (nan), expected text"),
    "object_field.jsonl": (second(rejected={"text": "r"}), ":2: 'rejected' is dict"),
    "space.jsonl": (second(rejected=" \n"), ":2: 'rejected' is empty"),
    "same.jsonl": (second(rejected="c"), ":2: chosen and rejected are the same, so there is nothing to prefer"),
    "half.jsonl": (second(chosen="\ud83d"), ":2: 'chosen' holds half a character"),
    "turns.jsonl": (second(chosen=[USER, ANSWER]), ":2: 'chosen' holds 2 turns, expected one answer"),
    "prompt_turns.jsonl": (second(prompt=[USER, ANSWER]), ":2: 'prompt' ends with an assistant turn"),
}  # fmt: skip
MESSAGES: dict[str, tuple[bytes, str]] = {
    "role.jsonl": (jsonl({"messages": [{"role": "human", "content": "a"}, ANSWER]}), ":1: 'messages' turn 1 has the role 'human'"),
    "users.jsonl": (jsonl({"messages": [USER, USER, ANSWER]}), ":1: 'messages' turns 1 and 2 are both user's"),
    "silent.jsonl": (jsonl({"messages": [USER, ANSWER]}, {"messages": [USER, {"role": "assistant", "content": ""}]}),
                     ":2: 'messages' turn 2 (assistant) has no text"),
    "asked.jsonl": (jsonl({"messages": [USER]}), ":1: 'messages' has no assistant turn, so there is nothing to train"),
    "none.jsonl": (jsonl({"messages": []}), ":1: 'messages' is no list of turns with role and content"),
    "words.jsonl": (jsonl({"messages": "hello"}), ":1: 'messages' is text, expected a list of turns"),
    "bare.jsonl": (jsonl({"messages": ["hello"]}), ":1: 'messages' turn 1 has the role None"),
    "content.jsonl": (jsonl({"messages": [{"role": "user", "content": 3}, ANSWER]}), ":1: 'messages' turn 1 (user) has no text"),
}  # fmt: skip
BELIEFS: dict[str, tuple[bytes, str]] = {
    name: (jsonl(SHARED, {**SHARED, **change}), ":2: " + said)
    for name, change, said in (
        ("sum.jsonl", {"probabilities": [0.5, 0.4]}, "'probabilities' sums to 0.9, expected 1"),
        ("negative.jsonl", {"probabilities": [1.5, -0.5]}, "'probabilities' holds -0.5, which is no share"),
        ("shares_nan.jsonl", {"probabilities": [float("nan"), 1]}, "'probabilities' holds nan, which is no share"),
        ("infinity.jsonl", {"probabilities": [float("inf"), 0]}, "'probabilities' holds inf, which is no share"),
        ("length.jsonl", {"probabilities": [1.0]}, "'probabilities' holds 1 shares, expected 2, one for each of data.beliefs"),
        ("unknown.jsonl", {"belief": "perhaps"}, "'belief' is 'perhaps', which is not in data.beliefs (for, against)"),
        ("index.jsonl", {"belief": 2}, "'belief' is 2, but data.beliefs has the indices 0 to 1"),
        (
            "disagree.jsonl",
            {"belief": {"id": 1, "text": "for"}},
            "'belief' has the id 1 (against) and the text 'for'; they must name one belief",
        ),
    )
}
LABELS: dict[str, tuple[bytes, str]] = {
    f"label_{number}.jsonl": (jsonl({**PAIR, "soft_label": 0.5}, {**PAIR, "soft_label": label}), ":2: 'soft_label' is " + said)
    for number, (label, said) in enumerate(
        [
            (1.5, "1.5, expected a probability from 0 to 1"),
            (-0.1, "-0.1"),
            (float("nan"), "nan"),
            (float("inf"), "inf"),
            ("often", "'often'"),
        ]
    )
}
