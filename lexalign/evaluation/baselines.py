"""Trivial predictions without a model. They are made from the training rows and measured on the held-out rows, as the model is.

A score that is no better than one of these shows no success, even if training improved it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from lexalign.data.rows import Row, get_question_key
from lexalign.evaluation import metrics
from lexalign.evaluation.differences import measure_difference
from lexalign.evaluation.evaluator import Evaluator, Measurement, Question
from lexalign.evaluation.intervals import RowValues
from lexalign.evaluation.unpaired import measure_labels

Shares = list[float]
Baselines = dict[str, dict[str, RowValues]]
"""Maps a metric to its trivial predictions by name, and each of these to its values on the held-out rows."""
SMALLEST_SHARE = 1e-3
"""Smaller shares are replaced by this before their logarithm is taken."""


def measure_baselines(evaluator: Evaluator) -> Baselines:
    """Measure the trivial predictions that these rows allow. A metric without any is left out."""
    baselines: Baselines = {}
    for measure in (predict_beliefs, predict_answers, predict_preferences, predict_labels):
        baselines |= {metric: table for metric, table in measure(evaluator).items() if table}
    return baselines


def predict_beliefs(evaluator: Evaluator) -> Baselines:
    """Measure belief_jsd of these predictions: equal shares, the mean of all training questions, the mean of the same question, the mean of
    the same group, and both means combined (log-linear: question times group over the mean of all).

    Each of the last three is left out if it cannot be computed for every held-out question.
    """
    if not evaluator.has("belief"):
        return {}
    true_shares = list_shares(evaluator.rows)
    uniform = [1 / len(next(iter(true_shares.values())))] * len(next(iter(true_shares.values())))
    predictions: dict[str, Callable[[Question], Shares | None]] = {"equal shares": lambda question: uniform}
    if training_shares := list_shares(row for row in evaluator.train_rows if "probabilities" in row):
        overall_shares = average(training_shares.values())
        prompt_means, group_means = average_by(training_shares, 0), average_by(training_shares, 1)
        predictions["overall shares"] = lambda question: overall_shares
        predictions["question's mean"] = lambda question: prompt_means.get(question[0])
        if any(group for _, group in true_shares):
            predictions["group's mean"] = lambda question: group_means.get(question[1])
            predictions["question and group"] = lambda question: combine_shares(
                prompt_means.get(question[0]), group_means.get(question[1]), overall_shares
            )
    table: dict[str, RowValues] = {}
    for name, predict in predictions.items():
        shares = [predict(question) for question in true_shares]
        if all(prediction is not None for prediction in shares):
            table[name] = RowValues(
                values=[metrics.jensen_shannon_distance(p or [], true) for p, true in zip(shares, true_shares.values(), strict=True)]
            )
    return {"belief_jsd": table}


def list_shares(rows: Iterable[Row]) -> dict[Question, Shares]:
    """Return the shares of each question, taken from its first row."""
    shares: dict[Question, Shares] = {}
    for row in rows:
        shares.setdefault(get_question_key(row), row["probabilities"])
    return shares


def average(shares: Iterable[Shares]) -> Shares:
    """Return the mean of several lists of shares."""
    columns = list(zip(*shares, strict=True))
    return [metrics.mean(column) for column in columns]


def average_by(shares: dict[Question, Shares], place: int) -> dict[str, Shares]:
    """Return the mean over all questions with the same prompt (`place` 0) or of the same group (`place` 1)."""
    groups: dict[str, list[Shares]] = defaultdict(list)
    for question, question_shares in shares.items():
        groups[question[place]].append(question_shares)
    return {name: average(group_shares) for name, group_shares in groups.items()}


def combine_shares(question: Shares | None, group: Shares | None, overall: Shares) -> Shares | None:
    """Combine shares by the log-linear model without interaction: log p = log question + log group - log overall, scaled to sum to 1.

    None if one of the two means is missing.
    """
    if question is None or group is None:
        return None
    logs = [
        math.log(max(q, SMALLEST_SHARE)) + math.log(max(g, SMALLEST_SHARE)) - math.log(max(o, SMALLEST_SHARE))
        for q, g, o in zip(question, group, overall, strict=True)
    ]
    weights = [math.exp(value - max(logs)) for value in logs]
    return [weight / sum(weights) for weight in weights]


def predict_answers(evaluator: Evaluator) -> Baselines:
    """Measure exact_match of the most frequent training answer."""
    answers = [row["completion"] for row in evaluator.train_rows if isinstance(row.get("completion"), str)]
    if not evaluator.has("completion") or evaluator.has("label") or not answers:
        return {}
    ((frequent_answer, _),) = Counter(answer.strip() for answer in answers).most_common(1)
    hits = [float(isinstance(row["completion"], str) and row["completion"].strip() == frequent_answer) for row in evaluator.rows]
    return {"exact_match": {"the most frequent answer": RowValues(values=hits)}}


def predict_preferences(evaluator: Evaluator) -> Baselines:
    """Measure reward_accuracy of a preference for the longer or the shorter answer, whichever fits the training pairs better, and
    soft_label_error of the mean of the training labels."""
    if not evaluator.has("chosen", "rejected"):
        return {}
    training_pairs = [row for row in evaluator.train_rows if "chosen" in row and "rejected" in row]
    margins = [measure_length(row["chosen"]) - measure_length(row["rejected"]) for row in training_pairs]
    prefers_longer = not margins or metrics.mean(metrics.reward_accuracies(margins)) >= 0.5
    sign = 1 if prefers_longer else -1
    held_out_margins = [sign * (measure_length(row["chosen"]) - measure_length(row["rejected"])) for row in evaluator.rows]
    name = f"the {'longer' if prefers_longer else 'shorter'} answer"
    baselines: Baselines = {"reward_accuracy": {name: RowValues(values=metrics.reward_accuracies(held_out_margins))}}
    labels = [row["soft_label"] for row in training_pairs if "soft_label" in row]
    if evaluator.has("soft_label") and labels:
        label_mean = metrics.mean(labels)
        errors = [abs(label_mean - row["soft_label"]) for row in evaluator.rows]
        baselines["soft_label_error"] = {"the labels' mean": RowValues(values=errors)}
    return baselines


def predict_labels(evaluator: Evaluator) -> Baselines:
    """Measure label_accuracy of the more frequent training label, and label_auc of the answer's length.

    Whether longer or shorter is better is chosen on the training rows.
    """
    if not evaluator.has("completion", "label"):
        return {}
    training_rows = [row for row in evaluator.train_rows if "label" in row and "completion" in row]
    if not training_rows:
        return {}
    usual_label = sum(row["label"] for row in training_rows) * 2 >= len(training_rows)
    baselines: Baselines = {
        "label_accuracy": {"the more frequent label": RowValues(values=[float(row["label"] == usual_label) for row in evaluator.rows])}
    }
    training_auc = measure_labels(
        [measure_length(row["completion"]) for row in training_rows], [row["label"] for row in training_rows]
    ).get("label_auc")
    if training_auc is not None:
        sign = 1 if training_auc.mean() >= 0.5 else -1
        lengths = [sign * measure_length(row["completion"]) for row in evaluator.rows]
        if (held_out_auc := measure_labels(lengths, [row["label"] for row in evaluator.rows]).get("label_auc")) is not None:
            baselines["label_auc"] = {f"the {'longer' if sign > 0 else 'shorter'} answer": held_out_auc}
    return baselines


def measure_length(answer: object) -> float:
    """Return an answer's length in characters."""
    return float(len(answer if isinstance(answer, str) else str(answer)))


def judge_scores(baselines: Baselines, after: Measurement, names: Sequence[str]) -> list[str]:
    """Return a warning for each of these metrics in which the model is not shown to be better than the best trivial prediction."""
    warnings = []
    for metric in names:
        if metric not in baselines or metric not in after.rows:
            continue
        name, value = metrics.find_best(metric, {name: rows.mean() for name, rows in baselines[metric].items()})
        difference = measure_difference([baselines[metric][name]], [after.rows[metric]])
        low, high = (difference.low, difference.high) if metrics.DIRECTIONS[metric] == "maximize" else (-difference.high, -difference.low)
        if low > 0:
            continue
        verdict = "is worse than" if high < 0 else "is not shown to be better than"
        warnings.append(f"{metric} {after.rows[metric].mean():.4f} {verdict} a prediction without a model ({name}: {value:.4f})")
    return warnings


def list_baseline_values(baselines: Baselines) -> dict[str, dict[str, float]]:
    """Return the mean of each prediction by metric and name, for `result.json`."""
    return {metric: {name: rows.mean() for name, rows in table.items()} for metric, table in baselines.items()}
