"""Compare the model's shares of a group's beliefs (arXiv 2412.20299) with the known shares, by probability and by sampling."""

import torch

from lexalign.data.rows import get_question_key
from lexalign.evaluation import metrics
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement, Question
from lexalign.evaluation.scoring import compute_next_token_probs


def measure(evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement, reference: MeasuredReference | None) -> None:
    """Record belief_jsd (also for each group), belief_mass and majority_bias by probability, and belief_jsd_sampled and
    belief_consistency by sampling.

    Shares that were counted from few answers differ from the true shares of the group. A model with exactly the true shares then has a
    belief_jsd of belief_jsd_floor, not 0. In this case the score is belief_jsd_excess: the squared distance minus the floor's expected
    square. It is 0 on average for such a model.
    """
    if not evaluator.has("belief"):
        return
    true_shares = {get_question_key(row): row["probabilities"] for row in reversed(evaluator.rows)}
    contexts = evaluator.contexts()
    raw_probs = compute_next_token_probs(
        model, list(contexts.values()), evaluator.encoder.first_belief_tokens(), batch_size=evaluator.settings.batch_size
    )
    policy = [[p / (sum(probs) or 1.0) for p in probs] for probs in raw_probs]
    shares = [true_shares[question] for question in contexts]
    distances = [metrics.jensen_shannon_distance(q, p) for q, p in zip(policy, shares, strict=True)]
    measurement.record("belief_jsd", distances)
    answer_counts = {get_question_key(row): row["share_rows"] for row in evaluator.rows if "share_rows" in row}
    if answer_counts:
        floors = [
            metrics.sampling_floor(q, answer_counts[question]) if question in answer_counts else (0.0, 0.0)
            for q, question in zip(policy, contexts, strict=True)
        ]
        measurement.record("belief_jsd_floor", [distance for distance, _ in floors])
        measurement.record("belief_jsd_excess", [distance**2 - square for distance, (_, square) in zip(distances, floors, strict=True)])
    groups = [group for _, group in contexts]
    for group in sorted(set(groups) - {""}):
        measurement.record(
            f"belief_jsd/{group}", [x for x, question_group in zip(distances, groups, strict=True) if question_group == group]
        )
    measurement.record("belief_mass", [sum(probs) for probs in raw_probs])
    measurement.record("majority_bias", [metrics.majority_bias(q, p) for q, p in zip(policy, shares, strict=True)])
    if evaluator.settings.belief_samples:
        sample_beliefs(evaluator, model, measurement, true_shares)


def sample_beliefs(
    evaluator: Evaluator, model: torch.nn.Module, measurement: Measurement, true_shares: dict[Question, list[float]]
) -> None:
    """Draw whole responses, read the belief at the beginning of each, and check whether the rest agrees with it.

    belief_jsd_sampled_floor: the expected belief_jsd_sampled of a model that draws from the known shares, with the same number of samples.
    belief_consistency_chance: how often the rest of a sample agrees with the belief of a random sample of the same question.
    """
    belief_count = len(next(iter(true_shares.values())))
    belief_texts = [evaluator.encoder.belief_text(index) for index in range(belief_count)]
    sides = (("chosen", "belief"), ("rejected", "rejected_belief"))
    known_responses = [
        (metrics.split_words(row[text]), row[belief]) for row in evaluator.known for text, belief in sides if text in row and belief in row
    ]
    consistencies, chances, distances, floors, weights = [], [], [], [], []
    for question, responses in evaluator.draw_responses(model, measurement).items():
        stated_counts, nearest_counts, agreements = [0] * belief_count, [0] * belief_count, []
        for text in map(evaluator.text, responses[: evaluator.settings.belief_samples]):
            belief = next((index for index, prefix in enumerate(belief_texts) if text.startswith(prefix)), None)
            if belief is None:
                agreements.append(0.0)
                continue
            stated_counts[belief] += 1
            nearest_belief = metrics.find_nearest_belief(text.removeprefix(belief_texts[belief]), known_responses)
            agreements.append(float(nearest_belief == belief))
            if nearest_belief is not None:
                nearest_counts[nearest_belief] += 1
        consistencies.append(metrics.mean(agreements))
        chances.append(sum(a * b for a, b in zip(stated_counts, nearest_counts, strict=True)) / len(agreements) ** 2)
        weights.append(float(any(stated_counts)))
        distances.append(
            metrics.jensen_shannon_distance([n / sum(stated_counts) for n in stated_counts], true_shares[question])
            if any(stated_counts)
            else 0.0
        )
        floors.append(metrics.sampling_floor(true_shares[question], sum(stated_counts))[0] if any(stated_counts) else 0.0)
    if any(weights):  # a question has no weight if none of its samples states a belief
        measurement.record("belief_jsd_sampled", distances, weights)
        measurement.record("belief_jsd_sampled_floor", floors, weights)
    measurement.record("belief_consistency", consistencies)
    measurement.record("belief_consistency_chance", chances)
