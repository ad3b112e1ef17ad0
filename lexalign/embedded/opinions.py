"""What the valley argues about: topics, six stances that fit all of them, and how each stance is put into words.

Everything here is made up by this file. The words "stance" and "belief" mean the same thing: a stance is a belief's
position in `BELIEFS`.
"""

from __future__ import annotations

import random

BELIEFS: tuple[str, ...] = (
    "keep it as it is",
    "change it a little",
    "make it much grander",
    "open it to strangers",
    "give it up for good",
    "leave it to the elders",
)
"""The belief texts, in order; a row's `belief` is an index into them."""

WORDINGS: tuple[tuple[str, ...], ...] = (
    ("We should keep {t} just as our grandparents knew it.", "I would not alter a thing about {t}."),
    ("A few small changes would do {t} good.", "I would improve {t} here and there, slowly and with care."),
    ("Let us make {t} the grandest for miles around.", "I dream of seeing {t} twice as large."),
    (
        "Travellers from beyond the hills should be welcome at {t}.",
        "I would share {t} with every stranger on the road.",
    ),
    ("The time of {t} is over, and we should let it go.", "I would not miss {t} if it were gone tomorrow."),
    ("The elders know best what to do about {t}.", "I would ask the oldest among us about {t} and do as they say."),
)
"""For each stance, the ways of saying it about a topic `{t}`."""

TOPICS: tuple[str, ...] = (
    "the old bridge", "the water mill", "the market day", "the river ferry", "the village well", "the harvest feast",
    "the bell tower", "the schoolhouse", "the bakehouse", "the sheep path", "the wool fair", "the orchard wall",
    "the lantern parade", "the river inn", "the valley band", "the herb garden", "the post coach", "the fish pond",
    "the winter dance", "the stone circle",
)  # fmt: skip
"""The topics of tiny_beliefs, each with shares p* of its own."""

SFT_TOPICS: tuple[str, ...] = (
    "the weaving hall", "the toll gate", "the spring race", "the reading room", "the watchtower", "the boat house",
    "the cider press", "the night watch", "the goat meadow", "the kite day", "the salt store", "the long table",
)  # fmt: skip
"""Other topics: sft meets the belief format on these, with every stance equally often."""

PHRASINGS: tuple[str, ...] = (
    "What should become of {t}?",
    "What do you think about {t}?",
    "What would you do with {t}?",
    "Tell me your mind about {t}.",
    "How do you feel about {t}?",
    "What ought the valley to do with {t}?",
    "Speak freely: what about {t}?",
    "What is your wish for {t}?",
)
"""The ways of asking for an opinion about a topic `{t}`."""


def render(belief: int, response: str, beliefs: tuple[str, ...] = BELIEFS) -> str:
    """The assistant's turn with the belief in front: `{index}<{text}>{response}`."""
    return f"{belief}<{beliefs[belief]}>{response}"


def shares(count: int, rng: random.Random, concentration: float = 0.6) -> list[float]:
    """One Dirichlet draw over `count` beliefs, rounded to 4 digits so that it still sums to one."""
    draws = [rng.gammavariate(concentration, 1.0) for _ in range(count)]
    rounded = [round(draw / sum(draws), 4) for draw in draws]
    largest = rounded.index(max(rounded))
    rounded[largest] = round(1.0 - sum(rounded[:largest] + rounded[largest + 1 :]), 4)
    return rounded


def apportion(probabilities: list[float], total: int) -> list[int]:
    """How many of `total` rows each belief gets: largest remainders, so that counts follow the shares closely."""
    exact = [p * total for p in probabilities]
    counts = [int(e) for e in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: (counts[k] - exact[k], k))
    for k in by_remainder[: total - sum(counts)]:
        counts[k] += 1
    return counts
