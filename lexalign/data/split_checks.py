"""What is said of a split as a whole: rows that stand there more than once, beliefs that hardly occur. No torch."""

import hashlib
import logging
from collections import Counter
from typing import Any

from lexalign.config.schema import Data

log = logging.getLogger(__name__)
Row = dict[str, Any]


class SplitChecks:
    """Sees the checked rows of one split, one after another, with the place each stands at."""

    def __init__(self) -> None:
        self.places: dict[bytes, str] = {}
        self.repeats = 0
        self.first_repeat: tuple[str, str] | None = None
        self.beliefs: Counter[int] = Counter()
        self.believers: dict[int, str] = {}

    def see(self, row: Row, where: str) -> None:
        """Count one row."""
        digest = hashlib.blake2b(repr(row).encode(errors="surrogatepass"), digest_size=16).digest()
        before = self.places.setdefault(digest, where)
        if before is not where:
            self.repeats += 1
            self.first_repeat = self.first_repeat or (where, before)
        if "belief" in row:
            self.beliefs[row["belief"]] += 1
            self.believers.setdefault(row["belief"], where)

    def tell(self, data: Data, split: str, counts: Counter[str]) -> None:
        """Say and count what was seen."""
        counts[f"{split}_rows_repeated"] += self.repeats
        if self.first_repeat:
            log.warning("%d rows of the split %r repeat an earlier one (first: %s repeats %s)", self.repeats, split, *self.first_repeat)
        alone = sorted(belief for belief, rows in self.beliefs.items() if rows == 1)
        counts[f"{split}_beliefs_in_one_row"] += len(alone)
        for belief in alone:
            log.warning(
                "The belief %d (%s) stands in one row only (%s): too few to learn it; add rows, or drop it from data.beliefs and shares",
                belief,
                (data.beliefs or ())[belief],
                self.believers[belief],
            )
