"""The metrics as plain functions of numbers and texts."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence

FLOOR_DRAWS = 200
"""Number of simulated surveys of one question."""

# The better direction of every metric that can be the score of a run.
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
"""Parts of the names of a trainer's own evaluation numbers for which larger is better. For all others (losses) smaller is better."""


def smaller_is_better(name: str) -> bool:
    """Return whether a smaller value of this number of the trainer's evaluation is better."""
    return not any(part in name for part in GREATER_IS_BETTER)


def find_best(metric: str, values: Mapping[str, float]) -> tuple[str, float]:
    """Return name and value of the best of several values of a metric."""
    sign = 1 if DIRECTIONS[metric] == "maximize" else -1
    return max(values.items(), key=lambda pair: sign * pair[1])


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean. There must be at least one value."""
    return sum(values) / len(values)


def exact_matches(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return 1 for each generation equal to its reference, without surrounding white space, else 0."""
    return [float(a.strip() == b.strip()) for a, b in zip(answers, references, strict=True)]


def soft_label_errors(margins: Sequence[float], labels: Sequence[float]) -> list[float]:
    """Return the distance of each preference that the rewards imply, σ(margin), from its labelled probability."""
    return [abs(0.5 + 0.5 * math.tanh(margin / 2) - label) for margin, label in zip(margins, labels, strict=True)]


def reward_accuracies(margins: Sequence[float]) -> list[float]:
    """Return 1 for each pair whose chosen response has the higher reward, else 0; one half for a tie. An untrained policy has 0.5."""
    return [0.5 if margin == 0 else float(margin > 0) for margin in margins]


def jensen_shannon_distance(p: Sequence[float], q: Sequence[float]) -> float:
    """Return the square root of the Jensen-Shannon divergence with natural logarithm: 0 for equal shares, sqrt(ln 2) for disjoint ones."""

    def to_middle(a: Sequence[float], b: Sequence[float]) -> float:
        """Return KL(a ‖ (a + b) / 2). It does not halve a share first, because that could make it 0."""
        return sum(x * math.log(2 * x / (x + y)) for x, y in zip(a, b, strict=True) if x > 0)

    return math.sqrt(max(0.0, (to_middle(p, q) + to_middle(q, p)) / 2))


def sampling_floor(shares: Sequence[float], count: int) -> tuple[float, float]:
    """Return the expected Jensen-Shannon distance, and its expected square, between `shares` and the shares counted from `count` answers
    drawn from them. The simulation uses a fixed seed, so the result is always the same."""
    generator, distances = random.Random(count), []
    for _ in range(FLOOR_DRAWS):
        answer_counts = Counter(generator.choices(range(len(shares)), shares, k=count))
        distances.append(jensen_shannon_distance([answer_counts[index] / count for index in range(len(shares))], shares))
    return mean(distances), mean([distance**2 for distance in distances])


def majority_bias(policy: Sequence[float], shares: Sequence[float]) -> float:
    """Return π(argmax p*) / max p*. Above 1, the policy gives the belief of the majority more than its share."""
    top = max(range(len(shares)), key=shares.__getitem__)
    return policy[top] / shares[top]


def list_grams(tokens: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Return all sequences of `size` consecutive tokens, including repeated ones."""
    return [tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]


def distinct(samples: Sequence[Sequence[int]], size: int) -> float:
    """Return distinct-n (Li et al. 2016, arXiv 1510.03055): the number of different n-grams of `size` tokens in all samples of a prompt,
    divided by the number of all n-grams."""
    grams = [gram for tokens in samples for gram in list_grams(tokens, size)]
    return len(set(grams)) / (len(grams) or 1)


def dissimilarity(samples: Sequence[Sequence[int]]) -> float:
    """Return the mean of 1 - |A ∩ B| / |A ∪ B| over all pairs of samples. A and B are the sets of single tokens and of pairs of consecutive
    tokens of each sample.

    It is 0 if all samples have the same sets, and 1 if no two share a token. There must be at least two samples.
    """
    sets = [set(list_grams(tokens, 1)) | set(list_grams(tokens, 2)) for tokens in samples]
    return mean([1 - len(a & b) / len(a | b) if a | b else 0.0 for a, b in itertools.combinations(sets, 2)])


def split_words(text: str) -> frozenset[str]:
    """Return the set of words of a text, without case and punctuation."""
    return frozenset("".join(c if c.isalnum() else " " for c in text.lower()).split())


def find_nearest_belief(response: str, known_responses: Sequence[tuple[frozenset[str], int]]) -> int | None:
    """Return the belief of the known response that is most similar to `response` by shared words (Jaccard); None if no response shares a
    word with it."""
    words = split_words(response)
    similarities = [(len(words & pair[0]) / (len(words | pair[0]) or 1), pair[1]) for pair in known_responses]
    highest, belief = max(similarities, key=lambda pair: pair[0])
    return belief if highest > 0 else None
