"""Beliefs of a group (arXiv 2412.20299): the model's shares of them against the known ones, by probability and by sampling."""

import torch

from lexalign.data.rows import get_question_key
from lexalign.evaluation import metrics
from lexalign.evaluation.evaluator import Evaluator, MeasuredReference, Measurement, Question
from lexalign.evaluation.scoring import compute_next_token_probs


def measure(stick: Evaluator, model: torch.nn.Module, found: Measurement, reference: MeasuredReference | None) -> None:
    """belief_jsd (each group's too), belief_mass, majority_bias by probability; belief_jsd_sampled, belief_consistency by sampling.

    Shares that were counted from few answers are not the group's: a model that is exactly right has a belief_jsd of belief_jsd_floor, not
    0. The score is then belief_jsd_excess, the squared distance less the floor's, which is 0 on average for such a model.
    """
    if not stick.has("belief"):
        return
    wanted = {get_question_key(row): row["probabilities"] for row in reversed(stick.rows)}
    contexts = stick.contexts()
    raw = compute_next_token_probs(
        model, list(contexts.values()), stick.encoder.first_belief_tokens(), batch_size=stick.settings.batch_size
    )
    policy = [[p / (sum(probs) or 1.0) for p in probs] for probs in raw]
    shares = [wanted[question] for question in contexts]
    distances = [metrics.jensen_shannon_distance(q, p) for q, p in zip(policy, shares, strict=True)]
    found.record("belief_jsd", distances)
    counted = {get_question_key(row): row["share_rows"] for row in stick.rows if "share_rows" in row}
    if counted:
        floors = [
            metrics.sampling_floor(q, counted[question]) if question in counted else (0.0, 0.0)
            for q, question in zip(policy, contexts, strict=True)
        ]
        found.record("belief_jsd_floor", [distance for distance, _ in floors])
        found.record("belief_jsd_excess", [distance**2 - square for distance, (_, square) in zip(distances, floors, strict=True)])
    groups = [group for _, group in contexts]
    for group in sorted(set(groups) - {""}):
        found.record(f"belief_jsd/{group}", [x for x, own in zip(distances, groups, strict=True) if own == group])
    found.record("belief_mass", [sum(probs) for probs in raw])
    found.record("majority_bias", [metrics.majority_bias(q, p) for q, p in zip(policy, shares, strict=True)])
    if stick.settings.belief_samples:
        sample_beliefs(stick, model, found, wanted)


def sample_beliefs(stick: Evaluator, model: torch.nn.Module, found: Measurement, wanted: dict[Question, list[float]]) -> None:
    """Draw whole responses, read the belief each begins with, and see whether the rest agrees with it.

    belief_jsd_sampled_floor: what belief_jsd_sampled would be for a model that draws by the known shares themselves, with as many samples.
    belief_consistency_chance: how often the rest of a sample agrees with the belief of any sample of its question.
    """
    kinds = len(next(iter(wanted.values())))
    written = [stick.encoder.belief_text(index) for index in range(kinds)]
    sides = (("chosen", "belief"), ("rejected", "rejected_belief"))
    known = [
        (metrics.split_words(row[text]), row[belief]) for row in stick.known for text, belief in sides if text in row and belief in row
    ]
    agreed, chances, distances, floors, stated = [], [], [], [], []
    for question, responses in stick.draw_responses(model, found).items():
        tally, nearest, agree = [0] * kinds, [0] * kinds, []
        for text in map(stick.text, responses[: stick.settings.belief_samples]):
            belief = next((index for index, prefix in enumerate(written) if text.startswith(prefix)), None)
            if belief is None:
                agree.append(0.0)
                continue
            tally[belief] += 1
            meant = metrics.find_nearest_belief(text.removeprefix(written[belief]), known)
            agree.append(float(meant == belief))
            if meant is not None:
                nearest[meant] += 1
        agreed.append(metrics.mean(agree))
        chances.append(sum(a * b for a, b in zip(tally, nearest, strict=True)) / len(agree) ** 2)
        stated.append(float(any(tally)))
        distances.append(metrics.jensen_shannon_distance([n / sum(tally) for n in tally], wanted[question]) if any(tally) else 0.0)
        floors.append(metrics.sampling_floor(wanted[question], sum(tally))[0] if any(tally) else 0.0)
    if any(stated):  # a question without one belief among its samples has no weight
        found.record("belief_jsd_sampled", distances, stated)
        found.record("belief_jsd_sampled_floor", floors, stated)
    found.record("belief_consistency", agreed)
    found.record("belief_consistency_chance", chances)
