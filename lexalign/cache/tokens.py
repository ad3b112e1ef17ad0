"""Tokenised rows, stored under a key of their inputs: the rows, the tokenizer with its template, the settings for the ids, the code."""

import hashlib
import json
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk

from lexalign.artifacts import files, fingerprint
from lexalign.cache import cache as shelves
from lexalign.cache.cache import ContentCache
from lexalign.config.schema import Experiment
from lexalign.data.lengths import RowLengths, measure_rows, settle_changes
from lexalign.data.rendering import Renderer
from lexalign.data.rows import Row
from lexalign.data.template_changes import TemplateChanges

log = logging.getLogger(__name__)
CHANGES = "changes.json"
"""File with the changes that the chat template made to the rows of the same entry."""


class TokenCache:
    """Data sets of token ids on a shelf. `made` counts the tokenised rows, `reused` the rows read from the shelf."""

    def __init__(self, shelf: ContentCache, encoder: Renderer):
        self.shelf = shelf
        self.encoder = encoder
        self.tokenizer_key = digest_tokenizer(encoder.tokenizer)
        self.made = 0
        self.reused = 0

    @classmethod
    def of(cls, experiment: Experiment, encoder: Renderer) -> "TokenCache":
        """The token cache in an experiment's store."""
        return cls(shelves.open_cache(experiment, "tokens"), encoder)

    def lengths(self, rows: list[Row]) -> list[RowLengths]:
        """The lengths of each row, as in `lexalign.data.lengths`. Changes by the chat template are logged, also for rows from the cache.

        Raises DataError if the template refuses rows or loses some of their text.
        """
        if not rows:
            return []
        names = RowLengths._fields

        def make() -> Dataset:
            return Dataset.from_list([row_lengths._asdict() for row_lengths in measure_rows(rows, self.encoder)])

        table, changes = self.rows_and_changes("lengths", rows, self.encoder.settings(), make)
        settle_changes(self.encoder, changes, len(rows))
        return [RowLengths(*values) for values in zip(*(table[name] for name in names), strict=True)]

    def rows(self, kind: str, rows: Any, settings: dict[str, Any], make: Callable[[], Dataset]) -> Dataset:
        """The data set that `make` makes from `rows` (a list of plain values) with `settings`, or the stored one."""
        return self.rows_and_changes(kind, rows, settings, make)[0]

    def rows_and_changes(
        self, kind: str, rows: Any, settings: dict[str, Any], make: Callable[[], Dataset]
    ) -> tuple[Dataset, TemplateChanges]:
        """The data set, and the changes that the chat template made to its rows. Both are stored in one entry."""
        material = [
            kind,
            digest_value(rows),
            self.tokenizer_key,
            settings,
            fingerprint.digest_code("lexalign.data"),
            version("trl"),
            version("datasets"),
            version("transformers"),
        ]
        key = f"{kind}-{digest_value(material)[:32]}"
        folder = self.shelf.get(key)
        if folder is not None:
            self.reused += len(rows)
            return load_from_disk(str(folder / "rows")), TemplateChanges.from_dict(json.loads((folder / CHANGES).read_text("utf-8")))
        outer_changes, self.encoder.changes = self.encoder.changes, TemplateChanges()
        try:
            dataset, changes = drop_texts(make()), self.encoder.changes
        finally:
            self.encoder.changes = outer_changes
        outer_changes.merge(changes)
        self.made += len(rows)

        def write(entry_folder: Path) -> None:
            dataset.save_to_disk(str(entry_folder / "rows"))
            files.write_json(entry_folder / CHANGES, changes.to_dict())

        if not changes.counts.get("refused"):
            self.shelf.put(key, write)
        return dataset, changes


def drop_texts(rows: Dataset) -> Dataset:
    """The data set without its text columns. Training reads ids only, and the text of rows may be private."""
    return rows.remove_columns([name for name, feature in rows.features.items() if "'string'" in repr(feature)])


def digest_value(value: Any) -> str:
    """sha256 of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def digest_tokenizer(tokenizer: Any) -> str:
    """sha256 of all that decides the ids of a tokenizer: its vocabulary, merges and rules, its special tokens, its template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return digest_value([rules, tokenizer.special_tokens_map, tokenizer.chat_template, type(tokenizer).__name__])
