"""The worlds of the bench: the embedded one, and a second of another size, made of the same generators.

Where sft leaves nothing to learn of how a sentence agrees with its belief, as in the embedded world (0.93), alignment can only cost
agreement, and who agrees more is who was harmed less. So in the second world two of five sentences of sft are another belief's: the pairs
alone tell which sentence goes with which belief. (docs/methods/gdpo.md tells what a world without these slips gave.)

A token that pre-training never read is not written, whatever an adapter learns; so every token of these answers is one that the model has
read. And pre-training has read the first world's opinions but none of these, so sft has to teach their form: 24 animals in 8 phrasings.
"""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from lexalign.embedded.opinions import PHRASINGS, render
from lexalign.embedded.people import ATTRIBUTES, capital, make_people
from lexalign.embedded.tasks import belief_rows, sft_rows

BELIEFS = ("open the door to it", "keep it at home", "sell it at the fair", "share it with the children")
WORDINGS = (
    ("I would open the door and let {t} go where it likes.", "{t} should walk the fields as it wants."),
    ("I would keep {t} at home, by the fire.", "{t} should stay in the house of its family."),
    ("I would bring {t} to the wool fair and sell it.", "Somebody at the market should buy {t}."),
    ("The children of the village should look after {t}.", "I would let all the children share {t}."),
)
"""For each belief, the ways of saying it about an animal `{t}`."""
QUESTIONS, SFT_QUESTIONS = 12, 24
"""Animals whose shares are to be learned, and others on which sft teaches the form."""
PHRASINGS_A_TOPIC = 8
"""Times sft meets a belief on one animal, each time asked in another way."""
WITH_BETA = ("dpo", "conditional dpo (weights 0, 0, 1)", "gdpo")
"""The arms that have a beta: 0.5 for all in the first world, as in `conf/tuned`; in the second each one's own choice, see choice.py."""
SLIPS = 0.4
"""Share of sft's opinions whose sentence is one of another belief than the one it begins with."""
Rows = list[dict]


@dataclass(frozen=True)
class World:
    """`overrides` choose the data and the sft model that every arm starts from."""

    name: str
    overrides: list[str] = field(default_factory=list)
    betas: dict[str, float] = field(default_factory=dict)
    """Of each arm that has one."""


def get_embedded() -> World:
    """`tiny_beliefs`: 20 questions, 6 beliefs."""
    return World("tiny_beliefs: 20 questions, 6 beliefs", ["data=tiny_beliefs"], dict.fromkeys(WITH_BETA, 0.5))


def make_animals(folder: Path) -> World:
    """What is to become of 12 animals, by 4 beliefs that no other data set has; with an sft data set of its own, written to `folder`."""
    names = ",".join(BELIEFS)
    (train, test), (first, held) = belief_rows(1, list_topics()[:QUESTIONS], PHRASINGS, WORDINGS), sft_rows(make_people())
    facts = [row for row in first if not row["completion"][0].isdigit()]
    write(folder / "beliefs", train, test)
    write(folder / "sft", facts + make_opinions(list_topics()[QUESTIONS:]), held)
    return World(
        f"animals: {QUESTIONS} questions, {len(BELIEFS)} beliefs",
        ["data=beliefs", f"data.path={folder}/beliefs", f"data.beliefs=[{names}]", "data.eval_split=test", "data.eval_fraction=null",
         f"model.parent_overrides=['data.path={folder}/sft']"],
        dict(zip(WITH_BETA, (32.0, 8.0, 32.0), strict=True)),
    )  # fmt: skip


def list_topics() -> tuple[str, ...]:
    """Animals, each with the village it lives in."""
    every = [f"the {animal} of {village}" for animal in ATTRIBUTES["animal"] for village in ATTRIBUTES["village"]]
    return tuple(random.Random("animals").sample(every, QUESTIONS + SFT_QUESTIONS))


def make_opinions(about: tuple[str, ...]) -> Rows:
    """Every belief about every animal equally often, so that sft tells nothing of any shares; `SLIPS` of the sentences are another's."""
    chance = random.Random("opinions")
    rows = []
    for topic in about:
        for belief in range(len(BELIEFS)):
            for number, phrasing in enumerate(chance.sample(PHRASINGS, PHRASINGS_A_TOPIC)):
                others = [other for other in range(len(BELIEFS)) if other != belief]
                wordings = WORDINGS[chance.choice(others) if chance.random() < SLIPS else belief]
                texts = capital(wordings[number % len(wordings)].format(t=topic))
                rows.append({"prompt": phrasing.format(t=topic), "completion": render(belief, texts, BELIEFS)})
    chance.shuffle(rows)
    return rows


def write(folder: Path, train: Rows, test: Rows) -> None:
    """A data set as a folder."""
    folder.mkdir(parents=True)
    for name, rows in (("train", train), ("test", test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
