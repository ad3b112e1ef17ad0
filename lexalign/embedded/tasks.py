"""The rows of the data sets: tiny_sft, tiny_pairs, tiny_unpaired, tiny_soft and tiny_beliefs, each with a train and a held-out split.

Everything here is made up by this file and its neighbours; prompts of the two splits never meet.
"""

from __future__ import annotations

import random

from lexalign.embedded.opinions import BELIEFS, PHRASINGS, SFT_TOPICS, TOPICS, WORDINGS, apportion, render, shares
from lexalign.embedded.people import ANSWERS, ATTRIBUTES, QUESTIONS, SFT_PEOPLE, Person, capital

Rows = list[dict]

COURTEOUS: tuple[str, ...] = (
    "Gladly! {a}",
    "With pleasure. {a}",
    "Thank you for asking. {a}",
    "Of course! {a} I hope that helps.",
    "{a} Please ask again any time.",
)
CURT: tuple[str, ...] = ("{v}.", "{v}, obviously.", "{v}. Anything else?")
RUDE: tuple[str, ...] = (
    "Why should I tell you?",
    "Go and ask {n} yourself.",
    "What a silly question.",
    "I have no time for you.",
    "Who cares about {n}?",
)
CARELESS: tuple[str, ...] = ("{w} I guess.", "{w} Or so.", "No idea. {w}")

PREFERENCES: dict[tuple[str, str], float] = {("warm", "plain"): 0.65, ("plain", "curt"): 0.8, ("warm", "curt"): 0.95}
"""Share of the valley's people who prefer the first manner of answering."""

GOOD = 0.4
"""Share of the tiny_unpaired answers that are good."""

ROWS_A_PROMPT = 5
"""Train rows of each tiny_beliefs prompt."""

HELD_OUT_PHRASINGS = 2
"""How many of a topic's phrasings only the held-out split uses."""


def sft_rows(people: list[Person], seed: int = 0) -> tuple[Rows, Rows]:
    """Questions about people with one right answer each; train also has opinions, to teach the belief format."""
    rng = random.Random(f"sft-{seed}")

    def ask(person: Person, attribute: str) -> dict:
        question = rng.choice(QUESTIONS[attribute]).format(n=person.name)
        return {"prompt": question, "completion": person.tell(attribute, ANSWERS[attribute])}

    train = [ask(p, a) for p in people[:SFT_PEOPLE] for a in rng.sample(tuple(ATTRIBUTES), 3)]
    for topic in SFT_TOPICS:
        for stance, wordings in enumerate(WORDINGS):
            for i, phrasing in enumerate(rng.sample(PHRASINGS, 4)):
                response = capital(wordings[i % len(wordings)].format(t=topic))
                train.append({"prompt": phrasing.format(t=topic), "completion": render(stance, response)})
    test = [ask(p, a) for p in people[SFT_PEOPLE:] for a in ATTRIBUTES]
    rng.shuffle(train)
    return train, rng.sample(test, 240)


def pair_rows(people: list[Person], seed: int | str = 0) -> tuple[Rows, Rows]:
    """The same kind of questions: a courteous right answer against a curt, rude or careless and wrong one."""
    rng = random.Random(f"pairs-{seed}")

    def pair(person: Person, attribute: str) -> dict:
        value = person.facts[attribute]
        wrong_value = rng.choice([v for v in ATTRIBUTES[attribute] if v != value])
        wrong = capital(ANSWERS[attribute].format(n=person.name, v=wrong_value))
        bad = rng.choice(rng.choice((CURT, RUDE, CARELESS)))
        return {
            "prompt": rng.choice(QUESTIONS[attribute]).format(n=person.name),
            "chosen": rng.choice(COURTEOUS).format(a=person.tell(attribute, ANSWERS[attribute])),
            "rejected": capital(bad.format(n=person.name, v=value, w=wrong)),
        }

    train = [pair(p, a) for p in people[:SFT_PEOPLE] for a in rng.sample(tuple(ATTRIBUTES), 3)]
    test = [pair(p, a) for p in people[SFT_PEOPLE:] for a in rng.sample(tuple(ATTRIBUTES), 2)]
    rng.shuffle(train)
    rng.shuffle(test)
    return train, test


def unpaired_rows(people: list[Person], seed: int = 0) -> tuple[Rows, Rows]:
    """Single answers and whether they are good: one side of each pair of a drawing of its own, the bad one in three of five."""
    rng = random.Random(f"unpaired-{seed}")

    def one(pair: dict) -> dict:
        good = rng.random() < GOOD
        return {"prompt": pair["prompt"], "completion": pair["chosen" if good else "rejected"], "label": good}

    train, test = pair_rows(people, f"unpaired-{seed}")
    return [one(pair) for pair in train], [one(pair) for pair in test]


def soft_rows(people: list[Person], seed: int = 0, judges: int = 10) -> tuple[Rows, Rows]:
    """Right answers in two of three manners, with the share of so many judges who prefer the first; the true share in test."""
    rng = random.Random(f"soft-{seed}")
    manners = {"warm": COURTEOUS, "plain": ("{a}",), "curt": CURT}

    def pair(person: Person, attribute: str, *, judge_count: int | None) -> dict:
        (better, worse), share = rng.choice(tuple(PREFERENCES.items()))
        value, answer = person.facts[attribute], person.tell(attribute, ANSWERS[attribute])
        texts = [capital(rng.choice(manners[manner]).format(a=answer, v=value)) for manner in (better, worse)]
        label = share if judge_count is None else sum(rng.random() < share for _ in range(judge_count)) / judge_count
        question = rng.choice(QUESTIONS[attribute]).format(n=person.name)
        return {"prompt": question, "chosen": texts[0], "rejected": texts[1], "soft_label": label}

    train = [pair(p, a, judge_count=judges) for p in people[:SFT_PEOPLE] for a in rng.sample(tuple(ATTRIBUTES), 3)]
    test = [pair(p, a, judge_count=None) for p in people[SFT_PEOPLE:] for a in rng.sample(tuple(ATTRIBUTES), 2)]
    rng.shuffle(train)
    rng.shuffle(test)
    return train, test


def belief_rows(
    seed: int = 0,
    topics: tuple[str, ...] = TOPICS,
    phrasings: tuple[str, ...] = PHRASINGS,
    wordings: tuple[tuple[str, ...], ...] = WORDINGS,
) -> tuple[Rows, Rows]:
    """Opinion questions: what the valley's people say, in shares p* that differ from topic to topic.

    A held-out prompt is a topic and a phrasing that train never puts together, so that its p* can be known. The
    chosen beliefs are dealt out so that their shares follow p* as closely as whole rows allow.
    """
    rng = random.Random(f"beliefs-{seed}")
    train: Rows = []
    test: Rows = []
    for i, topic in enumerate(topics):
        probabilities = shares(len(wordings), rng)
        turned = [phrasings[(i + j) % len(phrasings)] for j in range(len(phrasings))]
        held_out, seen = turned[:HELD_OUT_PHRASINGS], turned[HELD_OUT_PHRASINGS:]
        for prompts, rows, times in ((seen, train, ROWS_A_PROMPT), (held_out, test, 3)):
            counts = apportion(probabilities, len(prompts) * times)
            beliefs = [k for k, count in enumerate(counts) for _ in range(count)]
            rng.shuffle(beliefs)
            for r, belief in enumerate(beliefs):
                other = rng.choice([k for k in range(len(wordings)) if k != belief])
                rows.append({
                    "prompt": prompts[r % len(prompts)].format(t=topic),
                    "chosen": capital(rng.choice(wordings[belief]).format(t=topic)),
                    "rejected": capital(rng.choice(wordings[other]).format(t=topic)),
                    "belief": belief,
                    "rejected_belief": other,
                    "probabilities": probabilities,
                })  # fmt: skip
    rng.shuffle(train)
    rng.shuffle(test)
    assert len(BELIEFS) == len(WORDINGS)
    return train, test
