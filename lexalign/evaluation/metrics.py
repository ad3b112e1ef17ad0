"""The measures, as plain functions of numbers and texts."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence

FLOOR_DRAWS = 200
"""Simulated surveys of one question."""

# Which way is better, for every metric that can be a run's score.
DIRECTIONS = {
    "exact_match": "maximize",
    "loss": "minimize",
    "perplexity": "minimize",
    "reward_accuracy": "maximize",
    "belief_jsd": "minimize",
    "belief_jsd_excess": "minimize",
    "soft_label_error": "minimize",
    "win_rate": "maximize",
    "label_auc": "maximize",
    "label_accuracy": "maximize",
    "label_margin": "maximize",
    "reward": "maximize",
}
GREATER_IS_BETTER = ("accurac", "margin", "chosen", "reward", "exact")
"""Parts of the names of a trainer's own evaluation numbers of which more is better; of the others (losses) less is."""


def smaller_is_better(name: str) -> bool:
    """Whether less of a number of the trainer's evaluation is better."""
    return not any(part in name for part in GREATER_IS_BETTER)


def find_best(metric: str, values: Mapping[str, float]) -> tuple[str, float]:
    """Of several values of a metric, by name, the best: name and value."""
    sign = 1 if DIRECTIONS[metric] == "maximize" else -1
    return max(values.items(), key=lambda pair: sign * pair[1])


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; there must be at least one value."""
    return sum(values) / len(values)


def exact_matches(generated: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 for each generation equal to its reference, surrounding white space aside, else 0."""
    return [float(a.strip() == b.strip()) for a, b in zip(generated, references, strict=True)]


def soft_label_errors(margins: Sequence[float], labels: Sequence[float]) -> list[float]:
    """Distances of the preferences that the rewards imply, σ(margin), from the probabilities that were given."""
    return [abs(0.5 + 0.5 * math.tanh(margin / 2) - label) for margin, label in zip(margins, labels, strict=True)]


def reward_accuracies(margins: Sequence[float]) -> list[float]:
    """1 for each pair whose chosen response has the higher reward; a tie counts one half, so an untrained policy scores 0.5."""
    return [0.5 if margin == 0 else float(margin > 0) for margin in margins]


def jensen_shannon_distance(p: Sequence[float], q: Sequence[float]) -> float:
    """Square root of the Jensen-Shannon divergence with natural logarithm: 0 for equal shares, sqrt(ln 2) for disjoint ones."""

    def to_middle(a: Sequence[float], b: Sequence[float]) -> float:
        """KL(a ‖ (a + b) / 2); halving a share first could make it 0."""
        return sum(x * math.log(2 * x / (x + y)) for x, y in zip(a, b, strict=True) if x > 0)

    return math.sqrt(max(0.0, (to_middle(p, q) + to_middle(q, p)) / 2))


def sampling_floor(shares: Sequence[float], count: int) -> tuple[float, float]:
    """What shares counted from `count` answers are from the shares that these are drawn by: the expected Jensen-Shannon distance, and its
    expected square. Simulated, the same each time."""
    generator, distances = random.Random(count), []
    for _ in range(FLOOR_DRAWS):
        answer_counts = Counter(generator.choices(range(len(shares)), shares, k=count))
        distances.append(jensen_shannon_distance([answer_counts[index] / count for index in range(len(shares))], shares))
    return mean(distances), mean([distance**2 for distance in distances])


def majority_bias(policy: Sequence[float], shares: Sequence[float]) -> float:
    """π(argmax p*) / max p*: above 1 the policy gives the majority's belief more than its share."""
    top = max(range(len(shares)), key=shares.__getitem__)
    return policy[top] / shares[top]


def list_grams(tokens: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """The runs of `size` tokens, repeated ones too."""
    return [tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]


def distinct(samples: Sequence[Sequence[int]], size: int) -> float:
    """Distinct-n (Li et al. 2016, arXiv 1510.03055): different runs of `size` tokens in all samples of a prompt, as a share of all runs."""
    grams = [gram for tokens in samples for gram in list_grams(tokens, size)]
    return len(set(grams)) / (len(grams) or 1)


def dissimilarity(samples: Sequence[Sequence[int]]) -> float:
    """Mean over all pairs of samples of 1 - |A ∩ B| / |A ∪ B|, A and B the sets of a sample's single tokens and pairs of neighbours.

    0 where all samples are alike, 1 where no two share a token. There must be two samples or more.
    """
    sets = [set(list_grams(tokens, 1)) | set(list_grams(tokens, 2)) for tokens in samples]
    return mean([1 - len(a & b) / len(a | b) if a | b else 0.0 for a, b in itertools.combinations(sets, 2)])


def split_words(text: str) -> frozenset[str]:
    """The words of a text, without case and punctuation."""
    return frozenset("".join(c if c.isalnum() else " " for c in text.lower()).split())


def find_nearest_belief(response: str, known_responses: Sequence[tuple[frozenset[str], int]]) -> int | None:
    """The belief whose known responses hold the one most like `response`, by shared words (Jaccard); None where it shares no word with
    any."""
    words = split_words(response)
    similarities = [(len(words & pair[0]) / (len(words | pair[0]) or 1), pair[1]) for pair in known_responses]
    highest, belief = max(similarities, key=lambda pair: pair[0])
    return belief if highest > 0 else None
