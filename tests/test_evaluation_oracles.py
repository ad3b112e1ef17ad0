"""What the measures read of a model, against whole logits row by row: sums, weights, cuts, divergences, shares of beliefs."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from method_lab import PAIRS
from small_models import adapted, made

from lexalign.data.rendering import RenderedSequence
from lexalign.evaluation import beliefs, likelihood, pairs, samples, scoring
from lexalign.evaluation.evaluator import MeasuredReference, Measurement

WEIGHTS = [1.0, 0.5, 0.0, 2.0, 1.0, 1.0]


@pytest.fixture(scope="module")
def model():
    return adapted(made("qwen3")).eval()


def sequences(*, weighted):
    return [
        RenderedSequence(context=pair["prompt"], response=pair["chosen"], weights=WEIGHTS[: len(pair["chosen"])] if weighted else None)
        for pair in PAIRS
    ]


@torch.no_grad()
def whole(model, one):
    """(n, V): log-probabilities at the positions that predict the response."""
    ids = one.context + one.belief + one.response
    rows = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return rows[len(one.context) + len(one.belief) - 1 :]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("max_length", [64, 6])
def test_scores_of_responses(model, weighted, max_length):
    found = scoring.score_responses(model, sequences(weighted=weighted), batch_size=3, max_length=max_length)
    for one, (total, count) in zip(sequences(weighted=weighted), found, strict=True):
        room = max_length - len(one.context)
        weights = torch.tensor(one.response_weights[:room] if room > 0 else [])
        picked = torch.tensor(one.response[:room] if room > 0 else [], dtype=torch.long)
        wanted = (whole(model, one)[: len(picked)].gather(-1, picked[:, None])[:, 0] * weights).sum() if len(picked) else torch.zeros(())
        assert total == pytest.approx(float(wanted), rel=1e-4, abs=1e-4) and count == pytest.approx(float(weights.sum()))


def test_divergences_are_of_the_policy_from_the_reference(model):
    @contextlib.contextmanager
    def reference():
        with model.disable_adapter():
            yield model

    found = scoring.compute_divergences(model, reference, sequences(weighted=True), batch_size=3)
    for one, (total, count) in zip(sequences(weighted=True), found, strict=True):
        p = whole(model, one)
        with model.disable_adapter():
            q = whole(model, one)
        each = (p.exp() * (p - q)).sum(-1)
        weights = torch.tensor(one.response_weights)
        assert total == pytest.approx(float((each * weights).sum()), rel=1e-3) and count == pytest.approx(float(weights.sum()))
        assert total > 0


def test_kl_is_a_mean_over_tokens(model, monkeypatch):
    """Two prompts of two draws each: (3 + 1 nats) / (3 + 1 tokens) and 6 / 2, weighted by their 4 and 2 tokens."""
    monkeypatch.setattr(samples, "compute_divergences", lambda *_, **__: [(3.0, 3.0), (1.0, 1.0), (4.0, 1.0), (2.0, 1.0)])
    stick = SimpleNamespace(contexts=lambda: {"a": [1], "b": [2]}, settings=SimpleNamespace(batch_size=2, draws=2))
    measured = Measurement()
    drawn = {"a": [[3], [4]], "b": [[5], [6]]}
    samples.measure_divergence(stick, model, measured, MeasuredReference(measured=Measurement(), borrowed=contextlib.nullcontext), drawn)
    assert measured.rows["kl"].values == [1.0, 3.0] and measured.values["kl"] == pytest.approx((4 + 6) / 6)


def test_margins_are_held_against_the_reference(model, monkeypatch):
    """Two pairs: chosen up by 2 and 0, rejected down by 2 and up by 1 nats; beta one half."""
    found = [(-3.0, 4.0), (-6.0, 2.0), (-5.0, 5.0), (-4.0, 1.0)]
    monkeypatch.setattr(pairs, "score_responses", lambda *_, **__: found)
    rows = [{"chosen": "a", "rejected": "b", "prompt": "c"}] * 2
    stick = SimpleNamespace(
        has=lambda *names: set(names) <= {"chosen", "rejected"}, rows=rows, beta=0.5, max_length=9, shared_belief=False,
        settings=SimpleNamespace(batch_size=2), encoder=SimpleNamespace(render_pair=lambda *_, **__: (1, 2)),
    )  # fmt: skip
    before = Measurement()
    before.pair_log_probs = [(-5.0, -4.0), (-5.0, -5.0)]
    measured = Measurement()
    pairs.measure(stick, model, measured, MeasuredReference(measured=before))
    assert measured.rows["reward_margin"].values == [0.5 * (2 + 2), 0.5 * (0 - 1)]
    assert measured.rows["reward_accuracy"].values == [1.0, 0.0]
    assert measured.values["perplexity"] == pytest.approx(2.718281828 ** ((3 + 5) / (4 + 5)))


def test_the_loss_is_a_mean_over_tokens():
    measured = Measurement()
    likelihood.record_likelihood(measured, [(-2.0, 4.0), (-9.0, 3.0)], "loss")
    assert measured.values["loss"] == pytest.approx(11 / 7)


def test_shares_of_beliefs_are_of_the_whole_vocabulary_and_then_of_each_other(model, monkeypatch):
    contexts = [pair["prompt"] for pair in PAIRS[:3]]
    found = scoring.compute_next_token_probs(model, contexts, [52, 53], batch_size=2)
    for context, probs in zip(contexts, found, strict=True):
        with torch.no_grad():
            last = model(input_ids=torch.tensor([context]), use_cache=False).logits[0, -1].float().softmax(-1)
        assert probs == pytest.approx(last[[52, 53]].tolist(), rel=1e-4)
    monkeypatch.setattr(beliefs, "compute_next_token_probs", lambda *_, **__: [[0.1, 0.3]])
    row = {"prompt": "p", "probabilities": [0.25, 0.75], "belief": 0}
    stick = SimpleNamespace(
        has=lambda *names: True, rows=[row], contexts=lambda: {("p", ""): [1]}, known=[row],
        encoder=SimpleNamespace(first_belief_tokens=lambda: [52, 53]), settings=SimpleNamespace(batch_size=2, belief_samples=0),
    )  # fmt: skip
    measured = Measurement()
    beliefs.measure(stick, model, measured, None)
    assert measured.values["belief_jsd"] == pytest.approx(0, abs=1e-6) and measured.values["belief_mass"] == pytest.approx(0.4)
