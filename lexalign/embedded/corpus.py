"""The documents of pre-training: lives, village news, scenes, debates and small talk of the valley, without end.

Everything here is made up by this file and by `people.py` and `opinions.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from lexalign.embedded.opinions import BELIEFS, SFT_TOPICS, TOPICS, WORDINGS
from lexalign.embedded.people import ATTRIBUTES, STATEMENTS, Person, capital

VILLAGES: dict[str, str] = {
    "Thornby": "Thornby hides behind its hedges at the foot of the hills.",
    "Willowmere": "Willowmere lies on the lake, and its willows touch the water.",
    "Stonebrook": "Stonebrook is built of grey stone on both sides of a quick brook.",
    "Highfold": "Highfold sits so high that the clouds come in at the windows.",
    "Larkfield": "Larkfield wakes before all others, because the larks leave it no choice.",
    "Mossford": "Mossford is green all year, even the roofs and the cats.",
    "Appledown": "Appledown smells of apples from the first frost to the last.",
    "Greywater": "Greywater stands where the river grows broad and slow.",
}

REMARKS: tuple[str, ...] = (
    "The river was low this {season}, and the children crossed it on {count} stones.",
    "Snow came early, and {count} carts stood waiting at the pass.",
    "In {season} the whole valley smells of {smell}.",
    "The wind from the hills brought {smell} and a little rain.",
    "On day {count} of {season} the bells rang twice.",
    "There were {count} baskets of apples and {count2} jars of honey at the market.",
    "Nobody counted the geese, but there must have been {count} of them.",
    "Where does the river begin? Nobody in the valley can tell.",
    "Which path is the shortest? That depends on which boots you wear.",
    "What is the secret of good bread? Time, and a warm kitchen.",
    "Who would live anywhere else? The evenings are long and the songs are old.",
    "How do the swallows find the way home? They ask the church bells, the children say.",
    "Tell me about the weather, says the old man, and I will tell you about your harvest.",
    "A good neighbour brings soup first and questions later.",
    "The lamps are lit at dusk, and {count} windows shine over the water.",
    "It takes {count} minutes to walk around the lake, or an hour with a curious friend.",
    "In the year {count}{count2} the valley had its longest {season}.",
    "When {season} comes, please bring your coat, your friends and something to share.",
    "Thank you, said the guest, and left {count} coins under the plate.",
    "Of course there was dancing, and of course the dancing went on until {count} in the morning.",
)

DOORS: tuple[str, ...] = (
    "the gatehouse with the green lamp",
    "the shop of the candle maker",
    "the stable where the ponies sleep",
    "the kitchen of the travelling cook",
    "the school for curious geese",
    "the tower with the broken clock",
    "the cellar full of cider",
    "the garden of white roses",
    "the workshop of the kite builder",
    "the attic that nobody has opened",
)
"""What stands at each number of the long street. Digits that only ever counted things would mean all the same to the
model, and their embeddings with them; beliefs begin with a digit, so each gets a life of its own."""

SEASONS = ("spring", "summer", "autumn", "winter")
SMELLS = ("hay", "smoke", "wet stone", "apples", "fresh bread", "pine trees", "wild mint")
GAZETTES = ("News of the valley", "From house to house", "Seen on the road", "Letters to the valley", "A walk at noon")
DEBATE_OPENINGS = (
    "People have talked about {t} for years.",
    "At the long evening they spoke of {t} again.",
    "What should the valley do about {t}? Ask ten people and you hear ten answers.",
    "What do people think and feel about {t}? It is their wish to speak freely.",
    "Tell them your mind about {t}, and somebody will disagree.",
)


def _fact(rng: random.Random, person: Person, attribute: str | None = None, pronoun: bool = False) -> str:
    attribute = attribute or rng.choice(tuple(ATTRIBUTES))
    template = rng.choice(STATEMENTS[attribute])
    if pronoun and template.startswith("{n}"):
        template = person.pronoun + template[3:]
    return person.tell(attribute, template)


def _remark(rng: random.Random) -> str:
    return rng.choice(REMARKS).format(
        season=rng.choice(SEASONS), smell=rng.choice(SMELLS), count=rng.randint(0, 99), count2=rng.randint(0, 9)
    )


def _life(rng: random.Random, people: list[Person]) -> str:
    """One person's facts in any order; the name comes back often, a pronoun sometimes."""
    person = rng.choice(people)
    attributes = rng.sample(tuple(ATTRIBUTES), rng.randint(3, len(ATTRIBUTES)))
    sentences = [_fact(rng, person, a, pronoun=i > 0 and rng.random() < 0.35) for i, a in enumerate(attributes)]
    return rng.choice((" ", " ", "\n")).join(sentences)


def _village(rng: random.Random, people: list[Person]) -> str:
    """A village and some of the people who live there, with any of their facts."""
    village = rng.choice(ATTRIBUTES["village"])
    residents = [p for p in people if p.facts["village"] == village]
    lines = [_fact(rng, p) for p in rng.sample(residents, min(len(residents), rng.randint(3, 6)))]
    return f"{VILLAGES[village]}\n" + rng.choice((" ", "\n")).join(lines)


def _gazette(rng: random.Random, people: list[Person]) -> str:
    """A page of short news: several people, one attribute or all of them."""
    attribute = rng.choice((None, None, *ATTRIBUTES))
    lines = [_fact(rng, p, attribute) for p in rng.sample(people, rng.randint(3, 7))]
    return f"<{rng.choice(GAZETTES)}>\n" + rng.choice((" ", "\n")).join(lines)


def _debate(rng: random.Random, people: list[Person]) -> str:
    """Voices about one topic. Stances are uniform and tied to nobody, so nothing about the shares p* leaks."""
    topic = rng.choice(TOPICS + SFT_TOPICS)
    stances = rng.sample(range(len(BELIEFS)), rng.randint(2, 4))
    parts = [rng.choice(DEBATE_OPENINGS).format(t=topic)]
    for stance in stances:
        statement = capital(rng.choice(WORDINGS[stance]).format(t=topic))
        lead = rng.choice(("<{b}>{s}", "<{b}> {s}", "{n} would {b}: {s}", "{s} So says {n}.", "Some would {b}. {s}"))
        parts.append(lead.format(b=BELIEFS[stance], s=statement, n=rng.choice(people).name))
    return rng.choice((" ", "\n")).join(parts)


def _talk(rng: random.Random, people: list[Person]) -> str:
    """Weather, seasons and sayings, with a neighbour passing by."""
    parts = [_remark(rng) for _ in range(rng.randint(2, 3))]
    parts.insert(rng.randint(0, len(parts)), _fact(rng, rng.choice(people)))
    return " ".join(parts)


def _numbers(rng: random.Random, people: list[Person]) -> str:
    """Counting, little sums and the doors of the long street."""
    parts = []
    for _ in range(rng.randint(2, 4)):
        a, b = rng.randint(0, 9), rng.randint(0, 4)
        run = range(a, min(a + 5, 10)) if rng.random() < 0.7 else range(a, max(a - 5, -1), -1)
        kinds = (
            f"At number {a} of the long street you find {DOORS[a]}.",
            f"{capital(DOORS[a])} has the number {a}.",
            f"The children count: {', '.join(map(str, run))}.",
            f"{b} baskets and {a % 5} baskets make {a % 5 + b} baskets.",
            f"After {a % 9} comes {a % 9 + 1}, says the teacher.",
        )
        parts.append(rng.choice(kinds))
    return rng.choice((" ", "\n")).join(parts)


_KINDS = (_life, _village, _gazette, _debate, _talk, _numbers)
_WEIGHTS = (42, 14, 22, 13, 4, 5)


def documents(people: list[Person], seed: int = 0) -> Iterator[str]:
    """An endless, seeded stream of documents."""
    rng = random.Random(f"documents-{seed}")
    while True:
        yield rng.choices(_KINDS, _WEIGHTS)[0](rng, people)
