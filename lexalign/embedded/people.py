"""The people of the valley: invented names, and one village, craft, colour, dish and animal each.

Everything here is made up by this file; no name or sentence is taken from anywhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PEOPLE = 200
"""How many people live in the valley."""

SFT_PEOPLE = 120
"""How many of them the training splits ask about; the held-out splits ask about the rest."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "village": ("Thornby", "Willowmere", "Stonebrook", "Highfold", "Larkfield", "Mossford", "Appledown", "Greywater"),
    "craft": ("baker", "weaver", "potter", "fisher", "shepherd", "carpenter", "gardener", "miller", "smith", "painter"),
    "colour": ("red", "blue", "green", "yellow", "white", "violet", "silver", "brown"),
    "food": ("plum cake", "barley soup", "honey bread", "baked trout", "mushroom pie", "goat cheese", "pear jam",
             "walnut rolls", "leek stew", "cherry tart"),
    "animal": ("hen", "goat", "cat", "pony", "magpie", "tortoise", "sheepdog", "rabbit", "donkey", "ferret"),
}  # fmt: skip

STATEMENTS: dict[str, tuple[str, ...]] = {
    "village": (
        "{n} lives in {v}.",
        "{n} was born in {v} and never left.",
        "{n} calls {v} home.",
        "The house of {n} stands in {v}.",
        "You will find {n} in {v} on most days.",
        "{v} is home to {n}.",
        "In {v}, everybody knows {n}.",
    ),
    "craft": (
        "{n} works as a {v}.",
        "{n} is a {v} by trade.",
        "{n} has been a {v} for many years.",
        "Everybody knows {n} as a fine {v}.",
        "By trade, {n} is a {v}.",
        "The hands of {n} are the hands of a {v}.",
        "If you need a {v}, ask for {n}.",
    ),
    "colour": (
        "The favourite colour of {n} is {v}.",
        "{n} always wears something {v}.",
        "{n} painted the front door {v}.",
        "{n} loves the colour {v} above all others.",
        "Nothing pleases {n} more than a {v} scarf.",
        "Of all the colours, {n} likes {v} best.",
        "The curtains of {n} are {v}, of course.",
    ),
    "food": (
        "{n} likes to eat {v}.",
        "{n} would walk a mile for {v}.",
        "{n} never says no to {v}.",
        "The favourite dish of {n} is {v}.",
        "On feast days, {n} eats {v}.",
        "Nobody enjoys {v} as much as {n}.",
        "A plate of {v} makes {n} happy.",
    ),
    "animal": (
        "{n} keeps a {v}.",
        "{n} shares the house with a {v}.",
        "{n} goes nowhere without a {v}.",
        "A {v} follows {n} everywhere.",
        "The companion of {n} is a {v}.",
        "At home, a {v} waits for {n}.",
        "At dawn, {n} walks the fields with a {v}.",
    ),
}
"""The sentences in which pre-training tells a fact; `{n}` is the name, `{v}` the value."""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "village": (
        "Where does {n} live?",
        "In which village does {n} live?",
        "Tell me where {n} lives.",
        "Which village is home to {n}?",
        "Where would I find {n}?",
    ),
    "craft": (
        "What is the trade of {n}?",
        "What does {n} do for a living?",
        "What work does {n} do?",
        "Tell me the craft of {n}.",
        "Which craft does {n} follow?",
    ),
    "colour": (
        "What is the favourite colour of {n}?",
        "Which colour does {n} love?",
        "What colour does {n} like best?",
        "Tell me the favourite colour of {n}.",
        "Which colour pleases {n} most?",
    ),
    "food": (
        "What does {n} like to eat?",
        "What is the favourite dish of {n}?",
        "Which dish does {n} enjoy?",
        "Tell me what {n} likes to eat.",
        "What should I cook for {n}?",
    ),
    "animal": (
        "Which animal does {n} keep?",
        "What animal lives with {n}?",
        "Tell me which animal {n} keeps.",
        "What is the companion of {n}?",
        "Which animal follows {n}?",
    ),
}
"""The questions that sft teaches; pre-training never asks them."""

ANSWERS: dict[str, str] = {
    "village": "The house of {n} stands in {v}.",
    "craft": "By trade, {n} is a {v}.",
    "colour": "The favourite colour of {n} is {v}.",
    "food": "The favourite dish of {n} is {v}.",
    "animal": "The companion of {n} is a {v}.",
}
"""The one right answer to each question, so that exact match is well defined. Each is one of `STATEMENTS`, with the
name inside the sentence: there it is the same token as in the question, and short training learns to copy it."""

_STARTS = """Al Ar Bel Bri Cal Cor Dal Del El Er Fal Fen Gal Gwen Hal Har Is Jor Kel Lin Lor Mar Mer Mor Nel Nor Ol Or
Pel Per Quil Ral Ros Sel Sor Tal Tor Ul Ver Wil Yar Zel"""
_ENDS = """adan amir ana andra aro beth bin da den dra dwin eth ia ian ick iel ina ira is la len mar mund na or ric ro
sa ska wen"""


@dataclass(frozen=True)
class Person:
    """One inhabitant: a name, a pronoun and a value for every attribute."""

    name: str
    pronoun: str
    facts: dict[str, str]

    def tell(self, attribute: str, template: str) -> str:
        """Fills `template` with this person's name and value."""
        return capital(template.format(n=self.name, v=self.facts[attribute]))


def capital(text: str) -> str:
    """`text` with its first letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


def make_people(seed: int = 0) -> list[Person]:
    """Invents the people; the same seed gives the same people. The first `SFT_PEOPLE` are the training ones."""
    rng = random.Random(f"people-{seed}")
    starts, ends = _STARTS.split(), _ENDS.split()
    names: set[str] = set()
    while len(names) < PEOPLE:
        names.add(rng.choice(starts) + rng.choice(ends))
    order = sorted(names)
    rng.shuffle(order)
    return [Person(name, rng.choice(("She", "He")), {a: rng.choice(values) for a, values in ATTRIBUTES.items()}) for name in order]
