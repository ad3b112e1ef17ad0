"""Checks of a whole split: rows that occur more than once, beliefs in only one row, columns that nothing reads. No torch."""

import hashlib
import logging
from collections import Counter
from collections.abc import Collection
from typing import Any

from lexalign.config.schema import Data

log = logging.getLogger(__name__)
Row = dict[str, Any]


class SplitChecks:
    """Collects facts about the checked rows of one split, one row at a time, each with its place."""

    def __init__(self) -> None:
        self.places: dict[bytes, str] = {}
        self.repeats = 0
        self.first_repeat: tuple[str, str] | None = None
        self.beliefs: Counter[int] = Counter()
        self.believers: dict[int, str] = {}
        self.unread: Counter[str] = Counter()

    def see(self, row: Row, where: str) -> None:
        """Count one row."""
        digest = hashlib.blake2b(repr(row).encode(errors="surrogatepass"), digest_size=16).digest()
        first_place = self.places.setdefault(digest, where)
        if first_place is not where:
            self.repeats += 1
            self.first_repeat = self.first_repeat or (where, first_place)
        if "belief" in row:
            self.beliefs[row["belief"]] += 1
            self.believers.setdefault(row["belief"], where)

    def see_unread(self, stored_row: Row, read: Collection[str]) -> None:
        """Count the columns of a stored row that nothing reads."""
        self.unread.update(str(name) for name, value in stored_row.items() if name not in read and value is not None)

    def tell(self, data: Data, split: str, counts: Counter[str]) -> None:
        """Report and count the repeated rows, unread columns and rare beliefs."""
        counts[f"{split}_rows_repeated"] += self.repeats
        counts[f"{split}_columns_unread"] += len(self.unread)
        if self.unread:
            columns_text = ", ".join(f"{name} ({count:,} rows)" for name, count in self.unread.most_common())
            log.info("Columns of the split %r that nothing reads: %s", split, columns_text)
        if self.first_repeat:
            log.warning("%d rows of the split %r repeat an earlier one (first: %s repeats %s)", self.repeats, split, *self.first_repeat)
        rare_beliefs = sorted(belief for belief, row_count in self.beliefs.items() if row_count == 1)
        counts[f"{split}_beliefs_in_one_row"] += len(rare_beliefs)
        for belief in rare_beliefs:
            log.warning(
                "The belief %d (%s) stands in one row only (%s): too few to learn it; add rows, or drop it from data.beliefs and shares",
                belief,
                (data.beliefs or ())[belief],
                self.believers[belief],
            )
