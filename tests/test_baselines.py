"""What predictions without a model come to, and the signs of text that has degenerated."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from experiment_runner import World, result_of

from lexalign.evaluation import baselines, degeneration, metrics
from lexalign.evaluation.evaluator import Measurement
from lexalign.evaluation.intervals import RowValues


@dataclass
class Chosen:
    """The settings that these measures read."""

    draws: int = 2
    draw_prompts: int = 8
    max_new_tokens: int = 16


@dataclass
class Rows:
    """An evaluator as these measures see it."""

    rows: list[dict[str, Any]]
    train_rows: list[dict[str, Any]] = field(default_factory=list)
    beta: float | None = 0.1
    settings: Chosen = field(default_factory=Chosen)

    def has(self, *columns: str) -> bool:
        return all(column in self.rows[0] for column in columns)


def asked(prompt: str, shares: list[float], group: str = "") -> dict[str, Any]:
    """A row with a belief and its shares."""
    return {"prompt": prompt, "belief": 0, "probabilities": shares, **({"group": group} if group else {})}


def values_of(rows: Rows) -> dict[str, dict[str, float]]:
    return baselines.list_baseline_values(baselines.measure_baselines(rows))


def test_beliefs_of_a_question_met_in_other_groups():
    """North's answers differ from south's by a factor that is the same for both questions: the log-linear model knows it exactly."""
    shares = {("a", "n"): [0.5, 0.5], ("a", "s"): [0.8, 0.2], ("b", "n"): [0.2, 0.8], ("b", "s"): [0.5, 0.5]}
    train = [asked(prompt, own, group) for (prompt, group), own in shares.items() if (prompt, group) != ("b", "s")]
    (table,) = values_of(Rows([asked("b", [0.5, 0.5], "s")], train)).values()
    distance = metrics.jensen_shannon_distance
    assert table["equal shares"] == 0
    assert table["question's mean"] == pytest.approx(distance([0.2, 0.8], [0.5, 0.5]))
    assert table["group's mean"] == pytest.approx(distance([0.8, 0.2], [0.5, 0.5]))
    assert table["overall shares"] == pytest.approx(distance([0.5, 0.5], [0.5, 0.5]))
    assert table["question and group"] == pytest.approx(0, abs=1e-6), "0.2 to 0.8 times 0.8 to 0.2 is 1 to 1"


def test_a_question_that_training_did_not_meet_has_no_mean():
    table = values_of(Rows([asked("new", [0.3, 0.7])], [asked("old", [0.5, 0.5])]))["belief_jsd"]
    assert set(table) == {"equal shares", "overall shares"}


def test_a_question_counts_once_however_many_rows_it_has():
    train = [asked("a", [1.0, 0.0])] * 9 + [asked("b", [0.0, 1.0])]
    assert values_of(Rows([asked("c", [0.5, 0.5])], train))["belief_jsd"]["overall shares"] == 0


def test_the_most_frequent_answer():
    train = [{"prompt": str(at), "completion": answer} for at, answer in enumerate(["yes", "no", "yes "])]
    held_out = [{"prompt": "x", "completion": answer} for answer in ("yes", "no", "yes", "maybe")]
    assert values_of(Rows(held_out, train)) == {"exact_match": {"the most frequent answer": 0.5}}


def test_the_longer_or_the_shorter_answer_as_the_training_pairs_have_it():
    def pair(chosen: str, rejected: str) -> dict[str, str]:
        return {"prompt": "p", "chosen": chosen, "rejected": rejected}

    held_out = [pair("aaa", "b"), pair("a", "bbb"), pair("aa", "bb")]
    assert values_of(Rows(held_out, [pair("aa", "b")])) == {"reward_accuracy": {"the longer answer": 0.5}}
    assert values_of(Rows(held_out[1:], [pair("a", "bb")])) == {"reward_accuracy": {"the shorter answer": 0.75}}


def test_labels():
    train = [{"prompt": "p", "completion": "a" * size, "label": size > 2} for size in (1, 2, 3, 4, 5)]
    held_out = [{"prompt": "p", "completion": "a" * size, "label": label} for size, label in ((1, True), (4, True), (2, False))]
    assert values_of(Rows(held_out, train)) == {
        "label_accuracy": {"the more frequent label": pytest.approx(2 / 3)},
        "label_auc": {"the longer answer": 0.5},
    }


def test_a_score_that_is_no_better_than_a_trivial_one_is_said():
    trivial = {"belief_jsd": {"question's mean": RowValues(values=[0.08, 0.09, 0.1] * 20)}}
    for values, said in (
        ([0.2, 0.15, 0.1] * 20, "is worse than"),
        ([0.085, 0.095, 0.09] * 20, "is not shown to be better"),
        ([0.02] * 60, ""),
    ):
        after = Measurement(rows={"belief_jsd": RowValues(values=values)})
        warnings = baselines.judge_scores(trivial, after, ["belief_jsd"])
        assert all(said in warning and "question's mean: 0.0900" in warning for warning in warnings) and len(warnings) == bool(said)


def test_a_loop_is_a_repetition_and_prose_is_none():
    assert degeneration.measure_repetition([1, 2, 3, 4, 5, 6, 7, 8]) == 0 and degeneration.measure_repetition([1, 2]) == 0
    assert degeneration.measure_repetition([1, 2, 1, 2, 1, 2, 1, 2, 1, 2]) == pytest.approx(5 / 7)


def measured(ids: list[int], **values: float) -> Measurement:
    """A measurement with such answers drawn for each of two questions, and metrics of one row."""
    found = Measurement(drawn={("p", ""): [ids, ids], ("q", ""): [ids, ids]})
    for name, value in values.items():
        found.record(name, [math.log(value)] if name == "perplexity" else [value], exponential=name == "perplexity")
    return found


def signs(before: Measurement, after: Measurement, **rows: Any) -> list[str]:
    evaluator: Any = Rows([{"prompt": "p"}], **rows)
    for measurement in (before, after):
        degeneration.record_repetition(evaluator, measurement)
    return degeneration.find_signs(evaluator, before, after)


PROSE, LOOP = list(range(20)), [1, 2, 3, 4] * 5


def test_each_sign_is_said_and_what_was_so_before_is_none():
    sound = {"perplexity": 3.0, "sample_cut": 0.1, "kl": 0.3}
    assert signs(measured(PROSE, **sound), measured(PROSE, **sound)) == []
    found = signs(measured(PROSE, perplexity=3.0, sample_cut=0.1), measured(LOOP, perplexity=9.5, sample_cut=0.9, kl=4.0))
    assert [any(part in sign for sign in found) for part in ("from 3 to 9.5", "repeat themselves", "90% of", "kl is 4")] == [True] * 4
    assert signs(measured(LOOP, perplexity=9.5, sample_cut=0.9), measured(LOOP, perplexity=9.5, sample_cut=0.9)) == []


def test_a_margin_beyond_what_the_pairs_can_show():
    pairs = [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 99
    assert signs(measured(PROSE), measured(PROSE, reward_margin=9.0), train_rows=pairs) == []
    (sign,) = signs(measured(PROSE), measured(PROSE, reward_margin=23.0), train_rows=pairs)
    assert "10^10 to 1" in sign and "99 training pairs can show 100 to 1" in sign
    assert signs(measured(PROSE), measured(PROSE, reward_margin=23.0), train_rows=pairs, beta=1.0) == [], "plain log-ratios are no odds"


def test_a_run_shows_them(tmp_path):
    """At a learning rate that breaks the model, its table has the trivial predictions, and warnings below."""
    words = ("stage=align", "method=gdpo", "model=tiny", "tracking=none", "train.max_steps=6", "train.learning_rate=0.1", "data.limit=40",
             "evaluate.limit=20", "evaluate.max_new_tokens=24", "hardware.threads=1", "preflight=skip", "train.max_length=128",
             "output_dir=run")  # fmt: skip
    done = World(tmp_path).type(*words, env={"COLUMNS": "160"})
    assert done.returncode == 0, done.stderr[-2000:]
    result = result_of(tmp_path / "run")
    assert set(result["baselines"]) == {"belief_jsd", "reward_accuracy"} and "overall shares" in result["baselines"]["belief_jsd"]
    assert "overall shares" in done.stdout and "without a model" in done.stdout
    assert any("perplexity rose" in warning for warning in result["warnings"]) and "Warning: perplexity rose" in done.stdout
