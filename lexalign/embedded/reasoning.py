"""Arithmetic with answers that can be checked, made by reasoning-gym: instructions for sft and pairs (right against wrong) for align.

`data.path=generated:reasoning/sft` and `…/pairs` are made on first use, below the user's cache. For other sizes or longer numbers:
`python -m lexalign.embedded.reasoning --out data/reasoning`, then `data.path=data/reasoning/sft`.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lexalign.errors import DataError

TASK = "basic_arithmetic"  # short questions whose answer is one whole number: what a small model learns within minutes
SETTINGS = {"min_terms": 2, "max_terms": 2, "operators": ["+", "-"], "allow_parentheses": False, "allow_negation": False}
DIGITS = 2
SPLITS = {"test": 100, "sft": 1000, "pairs": 240}  # in this order, so that other sizes for training leave the test as it is
# A digit off, a carry forgotten. Symmetric, so that nothing but the sum itself tells a right answer from a wrong one.
SLIPS = (-10, -2, -1, 1, 2, 10)
MISSING = "reasoning-gym is not installed: pip install -e '.[reasoning]'"
Row = dict[str, str]


def make_reasoning_data(out: Path, *, digits: int = DIGITS, seed: int = 0, sizes: dict[str, int] = SPLITS) -> dict[str, int]:
    """Write `sft/` and `pairs/`, each with train.jsonl and test.jsonl; returns the number of rows by file.

    No question stands in two splits. The two tests ask the same questions, so that what sft and align leave can be compared.
    Raises DataError where the task has too few different questions.
    """
    questions = ask_questions(digits, seed, sum(sizes.values()))
    parts, at = {}, 0
    for name, size in sizes.items():
        parts[name] = questions[at : at + size]
        at += size
    files = {
        "sft/train": [make_instruction(row) for row in parts["sft"]],
        "sft/test": [make_instruction(row) for row in parts["test"]],
        "pairs/train": parts["pairs"],
        "pairs/test": parts["test"],
    }
    for name, rows in files.items():
        path = out / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {name: len(rows) for name, rows in files.items()}


def make_instruction(pair: Row) -> Row:
    """The right half of a pair."""
    return {"prompt": pair["prompt"], "completion": pair["chosen"]}


def ask_questions(digits: int, seed: int, count: int) -> list[Row]:
    """`count` different questions, each with a right and a wrong answer, both judged by the task itself."""
    gym = import_reasoning_gym()
    # Far more than wanted: small numbers repeat. Items are made as they are read, so the size costs nothing.
    dataset = gym.create_dataset(TASK, seed=seed, size=20 * count, min_digits=digits, max_digits=digits, **SETTINGS)
    rng, questions = random.Random(seed), {}
    for entry in dataset:
        prompt, answer = entry["question"].strip(), entry["answer"]
        if prompt in questions:
            continue
        wrong = next(slip for slip in make_wrong_answers(int(answer), rng) if dataset.score_answer(slip, entry) < 1)
        assert dataset.score_answer(answer, entry) == 1
        questions[prompt] = {"prompt": prompt, "chosen": answer, "rejected": wrong}
        if len(questions) == count:
            return list(questions.values())
    raise DataError(f"{TASK} has only {len(questions)} different questions with {digits} digits, and {count} are wanted; ask for fewer")


def make_wrong_answers(answer: int, rng: random.Random) -> Iterator[str]:
    """Wrong answers that look right, in random order: near misses of the same sign."""
    near = [answer + slip for slip in SLIPS if (answer + slip) * answer > 0 or answer == 0]
    yield from map(str, rng.sample(near, k=len(near)))


def ensure_folder(name: str, cache: Path) -> Path:
    """The folder `generated:reasoning/<name>` below `cache`, made if it is not there yet; raises DataError where it cannot be.

    Its place is named after what makes it, this file and reasoning-gym's version, so that a stale one is never taken.
    """
    try:
        material = Path(__file__).read_bytes() + importlib.metadata.version("reasoning-gym").encode()
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(MISSING) from error
    whole = cache / f"reasoning-{hashlib.sha256(material).hexdigest()[:12]}"
    if not whole.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            make_reasoning_data(Path(aside) / "new")
            with contextlib.suppress(OSError):  # another run may have been faster; its rows are the same
                (Path(aside) / "new").rename(whole)
    if not (whole / name).is_dir():
        raise DataError(f"there is generated:reasoning/sft and generated:reasoning/pairs, not generated:reasoning/{name}")
    return whole / name


def import_reasoning_gym() -> Any:
    """The library, imported where it is used: it is an extra."""
    try:
        import reasoning_gym as gym
    except ImportError as error:
        raise DataError(MISSING) from error
    return gym


def main() -> None:
    """`python -m lexalign.embedded.reasoning --out data/reasoning`"""
    parser = argparse.ArgumentParser(prog="python -m lexalign.embedded.reasoning", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for sft/ and pairs/")
    parser.add_argument("--digits", type=int, default=DIGITS, help=f"digits of both numbers (default {DIGITS})")
    parser.add_argument("--seed", type=int, default=0)
    for name, size in SPLITS.items():
        parser.add_argument(f"--{name}", type=int, default=size, help=f"rows of the {name} part (default {size})")
    arguments = parser.parse_args()
    try:
        counts = make_reasoning_data(
            arguments.out, digits=arguments.digits, seed=arguments.seed, sizes={name: getattr(arguments, name) for name in SPLITS}
        )
    except DataError as error:
        parser.exit(1, f"{error}\n")
    for name, count in counts.items():
        print(f"{arguments.out / name}.jsonl: {count} rows")


if __name__ == "__main__":
    main()
