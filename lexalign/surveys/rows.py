"""Make rows from combinations of a survey: a prompt, two responses with their beliefs, the shares and the group."""

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
"""The smallest number of combinations of each question and each group that stay in training."""


def split_combinations(survey: Survey, combinations: Sequence[Combination]) -> dict[str, list[Combination]]:
    """The combinations of each split, by `hold_out.by`. With `people`, every split has all combinations, and the caller sets the shares.

    A digest orders the questions, the groups or the combinations, and the first ones are held out. If combinations are held out, each
    question and each group keeps two or more combinations in training.
    """
    rule = survey.hold_out
    if rule.by == "people":
        return {name: list(combinations) for name in SPLITS}
    units = {id(row): get_unit(row, rule.by) for row in combinations}
    order = sorted(set(units.values()), key=lambda unit: draw(rule.seed, *unit))
    test_count, choice_count = max(1, round(rule.share * len(order))), round(rule.choice * len(order))
    names = {
        unit: "test" if index < test_count else "choice" if index < test_count + choice_count else "train"
        for index, unit in enumerate(order)
    }
    combinations_left = Counter(name for row in combinations for name in (("question", row.question), ("group", row.group)))
    splits: dict[str, list[Combination]] = {name: [] for name in SPLITS}
    for row in sorted(combinations, key=lambda row: order.index(units[id(row)])):
        name, keys = names[units[id(row)]], (("question", row.question), ("group", row.group))
        if rule.by == "combination" and name != "train":
            name = "train" if min(combinations_left[key] for key in keys) <= FEWEST else name
            combinations_left.subtract(keys if name != "train" else ())
        splits[name].append(row)
    if not splits["train"] or not splits["test"]:
        sizes = f"{len(splits['train'])} combinations to train on and {len(splits['test'])} to test on"
        raise DataError(f"hold_out: leaves {sizes}; change by or share")
    return splits


def get_unit(row: Combination, by: str) -> tuple[str, ...]:
    """The key of the combinations that are held out together with this one."""
    return {"combination": (row.question, row.group), "question": (row.question,), "group": (row.group,)}[by]


def draw(seed: int, *names: str) -> float:
    """A number from 0 to below 1 that depends only on the seed and the names."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def make_rows(survey: Survey, combination: Combination, *, pairs: int) -> list[dict[str, Any]]:
    """`pairs` rows of a combination. The chosen stances follow the shares; the rejected stance is drawn from the others."""
    rng = random.Random(f"{survey.hold_out.seed}/{combination.question}/{combination.group}")
    wording = survey.prompts[int(draw(survey.hold_out.seed, "wording", combination.question, combination.group) * len(survey.prompts))]
    prompt = wording.format(topic=combination.question, group=combination.group)
    shares = [round(share, 6) for share in combination.shares]
    largest = max(range(len(shares)), key=shares.__getitem__)
    shares[largest] = round(shares[largest] + 1 - sum(shares), 6)  # the sum of the rounded shares must be 1
    rows = []
    for chosen_option in apportion(combination.shares, pairs):
        rejected_option = rng.choice([option for option in range(len(shares)) if option != chosen_option])
        texts = [
            rng.choice(survey.options[option].responses).format(topic=combination.question) for option in (chosen_option, rejected_option)
        ]
        rows.append(
            {
                "prompt": prompt,
                "chosen": texts[0],
                "rejected": texts[1],
                "belief": chosen_option,
                "rejected_belief": rejected_option,
                "probabilities": shares,
                "group": combination.group,
            }
        )
    rng.shuffle(rows)
    return rows


def apportion(shares: Sequence[float], count: int) -> list[int]:
    """`count` options in proportion to their shares, by the method of largest remainders."""
    quotas = [share * count for share in shares]
    counts = [int(number) for number in quotas]
    order = sorted(range(len(shares)), key=lambda at: quotas[at] - counts[at], reverse=True)
    for at in order[: count - sum(counts)]:
        counts[at] += 1
    return [at for at, number in enumerate(counts) for _ in range(number)]
