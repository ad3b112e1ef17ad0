"""Tokenised rows, kept by what they were made of: the rows, the tokenizer with its template, the settings that shape the ids, the code."""

import hashlib
import json
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from datasets import Dataset, load_from_disk

from lexalign import identity
from lexalign.data.lengths import lengths
from lexalign.data.rows import Row
from lexalign.data.tokens import Encoder
from lexalign.schema import Experiment
from lexalign.stores import shelf as shelves
from lexalign.stores.shelf import Shelf

log = logging.getLogger(__name__)


class TokenStore:
    """Data sets of token ids on a shelf; `made` counts the rows that had to be tokenised, `reused` those that did not."""

    def __init__(self, shelf: Shelf, encoder: Encoder):
        self.shelf = shelf
        self.encoder = encoder
        self.tokenizer_key = tokenizer_digest(encoder.tokenizer)
        self.made = 0
        self.reused = 0

    @classmethod
    def of(cls, experiment: Experiment, encoder: Encoder) -> "TokenStore":
        """The store of an experiment."""
        return cls(shelves.of(experiment, "tokens"), encoder)

    def lengths(self, rows: list[Row]) -> list[tuple[int, int, int]]:
        """`lexalign.data.lengths.lengths` of each row."""
        if not rows:
            return []
        names = ("prompt", "longest", "all")

        def make() -> Dataset:
            return Dataset.from_list([dict(zip(names, lengths(row, self.encoder), strict=True)) for row in rows])

        found = self.rows("lengths", rows, self.encoder.settings(), make)
        return list(zip(*(found[name] for name in names), strict=True))

    def rows(self, kind: str, rows: Any, settings: dict[str, Any], make: Callable[[], Dataset]) -> Dataset:
        """The data set that `make` would make of `rows` (a list of plain values) under `settings`."""
        material = [
            kind,
            digest_of(rows),
            self.tokenizer_key,
            settings,
            identity.code_digest("lexalign.data"),
            version("trl"),
            version("datasets"),
        ]
        key = f"{kind}-{digest_of(material)[:32]}"
        folder = self.shelf.get(key)
        if folder is not None:
            self.reused += len(rows)
            return load_from_disk(str(folder / "rows"))
        made = make()
        self.made += len(rows)
        self.shelf.put(key, lambda aside: made.save_to_disk(str(aside / "rows")))
        return made


def digest_of(value: Any) -> str:
    """sha256 of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """What decides the ids a tokenizer gives: its vocabulary, merges and rules, its special tokens, its template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return digest_of([rules, tokenizer.special_tokens_map, tokenizer.chat_template, type(tokenizer).__name__])
