"""Reference log-probabilities, computed once for each reference model and sequence and shared by all runs on this store.

The model's part of the key holds all that decides the values: weights, adapter, quantization, types, layout and code. For
`PerTokenReferenceCache` it also holds the end token and the temperature. A row's part holds its tokens and the start of its response.
Learning rate, beta, seed, rank, batch size and folder are not in the key.
"""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from filelock import FileLock
from safetensors.numpy import load_file, save, save_file

from lexalign.cache.cache import ContentCache

log = logging.getLogger(__name__)
KEY_BYTES = 16
FILE = "log_probs.safetensors"
WORTH_AN_ENTRY = 4096
"""Number of rows that make an entry. A killed run loses at most so many rows that are not yet on the disk."""
Value = TypeVar("Value")
Columns = dict[str, np.ndarray[Any, Any]]


def make_row_key(context: Sequence[int], response: Sequence[int], weights: Sequence[float] | None = None) -> bytes:
    """The key of a context and a response (token ids), and of the weights of the response's tokens if it has weights."""
    parts = [np.asarray(ids, dtype=np.int64).tobytes() for ids in ([len(context)], context, response)]
    if weights is not None:
        parts.append(np.asarray(weights, dtype=np.float64).tobytes())
    return hashlib.sha256(b"".join(parts)).digest()[:KEY_BYTES]


@dataclass
class ReferenceCache(ABC, Generic[Value]):
    """The values of one reference model. `computed` counts the values of `add`, `reused` those of `look_up`."""

    shelf: ContentCache
    model_key: str
    values: dict[bytes, Value] = field(default_factory=dict)
    waiting: dict[bytes, Value] = field(default_factory=dict)
    computed: int = 0
    reused: int = 0

    def __post_init__(self) -> None:
        self.read: set[str] = set()
        self.allowed: set[str] | None = None
        self.reload()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within the block, no other run on this store computes values of this model. Values that others computed before are read first."""
        locks = self.shelf.root.parent / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"reference-{self.model_key}.lock"):
            self.reload()
            yield

    def keep_to(self, names: Iterable[str]) -> None:
        """Use only these entries and the values that this run adds. An earlier part of the run used the same entries, and another run's
        value of the same row may differ in its last bit."""
        self.allowed, self.read, self.values = set(names), set(), {}
        self.reload()
        if missing_names := self.allowed - self.read:
            log.warning(
                "%d entries of the reference store are gone; their rows are computed again, and last bits may differ", len(missing_names)
            )

    def reload(self) -> None:
        """Read the new entries. Values that are already in memory do not change."""
        for name in self.shelf.list_names(self.model_key):
            is_new = name not in self.read and (self.allowed is None or name in self.allowed)
            folder = self.shelf.get(name) if is_new else None
            if folder is not None:
                self.read.add(name)
                columns = load_file(folder / FILE)
                keys = [key.tobytes() for key in columns["keys"]]
                self.values = dict(zip(keys, self.unpacked(columns), strict=True)) | self.values

    @abstractmethod
    def packed(self, values: Sequence[Value]) -> Columns:
        """The columns of a file with these values."""

    @abstractmethod
    def unpacked(self, columns: Columns) -> Sequence[Value]:
        """The values of the columns; the inverse of `packed`."""

    def look_up(self, keys: Sequence[bytes], *, count: bool = True) -> list[Value] | None:
        """The values of these rows, or None if one of them is missing. They count as reused if `count` is true; it is false in a trial."""
        if any(key not in self.values for key in keys):
            return None
        self.reused += len(keys) * count
        return [self.values[key] for key in keys]

    def add(self, new_values: dict[bytes, Value]) -> None:
        """Add values. They are written to the disk when there are enough of them, or by `flush`.

        An existing value does not change: the value from another batch may differ in its last bit, and a resumed run must use the same
        value as its first part.
        """
        self.computed += len(new_values)
        new_values = {key: value for key, value in new_values.items() if key not in self.values}
        self.values |= new_values
        self.waiting |= new_values
        if len(self.waiting) >= WORTH_AN_ENTRY:
            self.flush()

    def flush(self) -> None:
        """Write the waiting values as one entry of the shelf."""
        values, self.waiting = self.waiting, {}
        if not values:
            return
        keys = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(-1, KEY_BYTES).copy()
        columns = {"keys": keys, **self.packed(list(values.values()))}
        name = f"{self.model_key}/{hashlib.sha256(save(columns)).hexdigest()[:16]}"
        self.shelf.put(name, lambda folder: save_file(columns, folder / FILE))
        self.read.add(name)


class SummedReferenceCache(ReferenceCache[tuple[float, int]]):
    """The summed log-probability of each response, and the number of its scored tokens."""

    def packed(self, values: Sequence[tuple[float, int]]) -> Columns:
        sums, lengths = zip(*values, strict=True)
        return {"sums": np.array(sums, dtype=np.float64), "lengths": np.array(lengths, dtype=np.int64)}

    def unpacked(self, columns: Columns) -> list[tuple[float, int]]:
        return list(zip(columns["sums"].tolist(), columns["lengths"].tolist(), strict=True))


class PerTokenReferenceCache(ReferenceCache[np.ndarray[Any, Any]]):
    """Several values for each token of a response, (K, n) in float32: K kinds of scores, n tokens."""

    def packed(self, values: Sequence[np.ndarray[Any, Any]]) -> Columns:
        lengths = np.array([value.shape[1] for value in values], dtype=np.int64)
        # safetensors writes the memory in its order and ignores the strides.
        return {"lengths": lengths, "scores": np.ascontiguousarray(np.concatenate(values, axis=1), dtype=np.float32)}

    def unpacked(self, columns: Columns) -> list[np.ndarray[Any, Any]]:
        return np.split(columns["scores"], np.cumsum(columns["lengths"])[:-1], axis=1)
