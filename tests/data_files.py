"""Tables as files, written by other means than ours."""

import csv
import io
import json
from pathlib import Path
from typing import Any


def write(path: Path, kind: str, table: list[dict[str, Any]]) -> Path:
    """A table as a file of one of our formats."""
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    elif kind == "json":
        path.write_text(json.dumps(table))
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    else:
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
        path.write_bytes(out.getvalue().encode())
    return path
