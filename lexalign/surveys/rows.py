"""Combinations of a survey as rows of ours: a prompt, two responses with their beliefs, the shares and the group."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lexalign.errors import DataError
from lexalign.surveys.declaration import Survey
from lexalign.surveys.shares import Combination

SPLITS = ("train", "choice", "test")
FEWEST = 2
"""Combinations of each question and each group that stay in training."""


def split_combinations(survey: Survey, combinations: Sequence[Combination]) -> dict[str, list[Combination]]:
    """The combinations of each split, by `hold_out.by`. With `people`, every combination is in all of them: the caller brings other shares.

    A digest puts the questions, the groups or the combinations in an order; the first of them are held out. Where combinations are held
    out, each question and each group stays in training with two combinations or more.
    """
    rule = survey.hold_out
    if rule.by == "people":
        return {name: list(combinations) for name in SPLITS}
    units = {id(row): get_unit(row, rule.by) for row in combinations}
    order = sorted(set(units.values()), key=lambda unit: draw(rule.seed, *unit))
    tested, chosen = max(1, round(rule.share * len(order))), round(rule.choice * len(order))
    names = {unit: "test" if at < tested else "choice" if at < tested + chosen else "train" for at, unit in enumerate(order)}
    left = Counter(name for row in combinations for name in (("question", row.question), ("group", row.group)))
    splits: dict[str, list[Combination]] = {name: [] for name in SPLITS}
    for row in sorted(combinations, key=lambda row: order.index(units[id(row)])):
        name, own = names[units[id(row)]], (("question", row.question), ("group", row.group))
        if rule.by == "combination" and name != "train":
            name = "train" if min(left[one] for one in own) <= FEWEST else name
            left.subtract(own if name != "train" else ())
        splits[name].append(row)
    if not splits["train"] or not splits["test"]:
        sizes = f"{len(splits['train'])} combinations to train on and {len(splits['test'])} to test on"
        raise DataError(f"hold_out: leaves {sizes}; change by or share")
    return splits


def get_unit(row: Combination, by: str) -> tuple[str, ...]:
    """What is held out together with a combination."""
    return {"combination": (row.question, row.group), "question": (row.question,), "group": (row.group,)}[by]


def draw(seed: int, *names: str) -> float:
    """A number from 0 to below 1 that these names decide."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def make_rows(survey: Survey, combination: Combination, *, pairs: int) -> list[dict[str, Any]]:
    """`pairs` rows of a combination: the chosen stance as often as its share, the rejected one drawn from the others."""
    rng = random.Random(f"{survey.hold_out.seed}/{combination.question}/{combination.group}")
    wording = survey.prompts[int(draw(survey.hold_out.seed, "wording", combination.question, combination.group) * len(survey.prompts))]
    prompt = wording.format(topic=combination.question, group=combination.group)
    shares = [round(share, 6) for share in combination.shares]
    largest = max(range(len(shares)), key=shares.__getitem__)
    shares[largest] = round(shares[largest] + 1 - sum(shares), 6)  # rounded shares add up to 1, too
    rows = []
    for chosen in apportion(combination.shares, pairs):
        rejected = rng.choice([at for at in range(len(shares)) if at != chosen])
        texts = [rng.choice(survey.options[at].responses).format(topic=combination.question) for at in (chosen, rejected)]
        rows.append(
            {
                "prompt": prompt,
                "chosen": texts[0],
                "rejected": texts[1],
                "belief": chosen,
                "rejected_belief": rejected,
                "probabilities": shares,
                "group": combination.group,
            }
        )
    rng.shuffle(rows)
    return rows


def apportion(shares: Sequence[float], count: int) -> list[int]:
    """`count` options in proportion to their shares, by largest remainders."""
    exact = [share * count for share in shares]
    whole = [int(number) for number in exact]
    order = sorted(range(len(shares)), key=lambda at: exact[at] - whole[at], reverse=True)
    for at in order[: count - sum(whole)]:
        whole[at] += 1
    return [at for at, number in enumerate(whole) for _ in range(number)]
