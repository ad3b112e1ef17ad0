"""Each method's loss and gradient against its formula in plain torch, written out on whole logits, row by row: an oracle of its own for
what TRL does not have, and a second one for the rest."""

import pytest
import torch
import torch.nn.functional as F
from method_lab import PAIRS, answer_rows, gradient_by_name, loss_and_gradient, make_trainer, pair_rows, sequence
from small_models import relative

TOLERANCE = 2e-5
FAMILIES = ("llama_untied", "qwen3", "gemma3")
END = 2
BELIEFS = [[52, 3], [53], [54, 4, 5], [52, 6], [53, 7], [54], [52], [53, 3, 9]]
FIRSTS = [52, 53, 54]
SHARES = [
    [0.5, 0.3, 0.2],
    [1.0, 0.0, 0.0],
    [0.2, 0.2, 0.6],
    [0.1, 0.9, 0.0],
    [1 / 3, 1 / 3, 1 / 3],
    [0.0, 0.5, 0.5],
    [0.7, 0.2, 0.1],
    [0.0, 0.0, 1.0],
]


def log_probs(model, ids):
    """(T-1, V): log-probabilities of the next token after each prefix, by the model's own forward."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
    return logits.log_softmax(-1)


def token_scores(model, before, response):
    """(n,): log-probability of each response token."""
    ids = before + response
    rows = log_probs(model, ids)[len(before) - 1 :]
    return rows.gather(-1, torch.tensor(response)[:, None])[:, 0]


def of_reference(model, compute):
    with torch.no_grad(), model.disable_adapter():
        return compute(model)


def h_of(model, before, chosen, rejected):
    """The difference of the log-ratios."""

    def difference(asked):
        return token_scores(asked, before, chosen).sum() - token_scores(asked, before, rejected).sum()

    return difference(model) - of_reference(model, difference)


def assert_equal(trainer, rows, oracle):
    """The trainer's loss and gradient are the oracle's, which must not be 0."""
    trainer.model.zero_grad(set_to_none=True)
    wanted = oracle(trainer.model)
    wanted.backward()
    gradient = gradient_by_name(trainer.model)
    loss, ours = loss_and_gradient(trainer, rows)
    assert loss == pytest.approx(float(wanted.detach()), rel=TOLERANCE) and loss != 0
    assert relative(ours, gradient) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
def test_gdpo(family, weights, tmp_path):
    """c·KL(p* ‖ π) at the last context token, b·mean of the belief's tokens, p·DPO given the belief, the reference included."""
    named = zip(("calibration_weight", "belief_weight", "preference_weight"), weights, strict=True)
    trainer = make_trainer(tmp_path, "method=gdpo", "method.beta=0.7", *(f"method.{name}={value}" for name, value in named), family=family)
    trainer.objective.belief_tokens = torch.tensor(FIRSTS)
    pairs = [{**pair, "belief": belief} for pair, belief in zip(PAIRS, BELIEFS, strict=True)]

    def oracle(model):
        total = torch.zeros(())
        for pair, belief, shares in zip(PAIRS, BELIEFS, SHARES, strict=True):
            first = log_probs(model, [*pair["prompt"], 0])[-1]
            calibration = sum(p * (torch.log(torch.tensor(p)) - first[token]) for p, token in zip(shares, FIRSTS, strict=True) if p)
            likelihood = -token_scores(model, pair["prompt"], belief).mean()
            h = h_of(model, pair["prompt"] + belief, pair["chosen"], pair["rejected"])
            total = total + weights[0] * calibration + weights[1] * likelihood - weights[2] * F.logsigmoid(0.7 * h)
        return total / len(PAIRS)

    assert_equal(trainer, pair_rows(pairs, probabilities=SHARES), oracle)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["gdpo_soft", "cdpo_soft"])
def test_soft_labels(family, method, tmp_path):
    trainer = make_trainer(tmp_path, f"method={method}", "method.beta=0.7", family=family)
    labels = [0.5 + at / 16 for at in range(8)]

    def oracle(model):
        total = torch.zeros(())
        for pair, label in zip(PAIRS, labels, strict=True):
            h = 0.7 * h_of(model, pair["prompt"], pair["chosen"], pair["rejected"])
            if method == "gdpo_soft":
                total = total + torch.log(1 + torch.exp(-(2 * label - 1) * h))
            else:
                total = total + label * torch.log(1 + torch.exp(-h)) + (1 - label) * torch.log(1 + torch.exp(h))
        return total / len(PAIRS)

    assert_equal(trainer, pair_rows(soft_label=labels), oracle)


@pytest.mark.parametrize("family", FAMILIES)
def test_gdpo_flow(family, tmp_path):
    """State by state: log R with the reference's end at temperature γ, log F = log R - e, (log F_t - log F_{t+1} + a_t)²."""
    words = ("method.alpha=0.3", "method.gamma=0.5", "method.rejected_reward=-4")
    trainer = make_trainer(tmp_path, "method=gdpo_flow", *words, family=family)
    trainer.objective.__dict__["end_token"] = END

    def flow(model, before, response, terminal):
        ids = before + response
        own = log_probs(model, ids)[len(before) - 1 :]

        def reference(asked):
            logits = asked(input_ids=torch.tensor([ids]), use_cache=False).logits[0, len(before) - 1 : -1].float()
            taken = logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]
            return taken + (logits / 0.5).log_softmax(-1)[:, END]

        rewards = of_reference(model, reference)
        flows = [rewards[t] + (0.3 * terminal if t == len(response) - 1 else 0.0) - own[t, END] for t in range(len(response))]
        return sum((flows[t] - flows[t + 1] + own[t, response[t]]) ** 2 for t in range(len(response) - 1))

    def oracle(model):
        total = torch.zeros(())
        for pair in PAIRS:
            total = total + flow(model, pair["prompt"], pair["chosen"], 0.0) + flow(model, pair["prompt"], pair["rejected"], -4.0)
        return total / (2 * len(PAIRS))

    assert_equal(trainer, pair_rows(), oracle)


@pytest.mark.parametrize("family", FAMILIES)
def test_kto(family, tmp_path):
    """z is the mean log-ratio of each prompt with the response of the row before it, at least 0, without gradient."""
    trainer = make_trainer(
        tmp_path, "method=kto", "method.beta=0.7", "method.desirable_weight=1.5", "method.undesirable_weight=0.5", family=family
    )
    labels = [1, 0, 1, 1, 0, 1, 0, 0]

    def ratio(model, before, response):
        def whole(asked):
            return token_scores(asked, before, response).sum()

        return whole(model) - of_reference(model, whole)

    def oracle(model):
        with torch.no_grad():
            z = sum(ratio(model, PAIRS[at]["prompt"], PAIRS[at - 1]["chosen"]) for at in range(8)) / 8
        assert z != 0
        z = z.clamp(min=0)
        total = torch.zeros(())
        for pair, label in zip(PAIRS, labels, strict=True):
            r = ratio(model, pair["prompt"], pair["chosen"])
            total = total + (1.5 * (1 - torch.sigmoid(0.7 * (r - z))) if label else 0.5 * (1 - torch.sigmoid(0.7 * (z - r))))
        return total / 8

    assert_equal(trainer, answer_rows(labels), oracle)
    z = trainer.metrics["train"].means()["kl"]
    assert z >= 0


def test_a_kl_above_zero_moves_the_loss(tmp_path):
    """Until the estimate is above 0: the oracle above might have compared two zeros."""
    trainer = make_trainer(tmp_path, "method=kto", "method.beta=0.7")
    trainer.score_mismatched = lambda batch: torch.full((len(batch["input_ids"]),), 2.5)
    rows = answer_rows([1, 0, 1, 1, 0, 1, 0, 0])
    with_kl, _ = loss_and_gradient(trainer, rows)
    assert trainer.metrics["train"].means()["kl"] == pytest.approx(2.5)
    trainer.score_mismatched = lambda batch: torch.full((len(batch["input_ids"]),), -2.5)
    trainer.metrics["train"].clear()
    without, _ = loss_and_gradient(trainer, rows)
    assert trainer.metrics["train"].means()["kl"] == 0 and with_kl != pytest.approx(without, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["dpo", "simpo", "cpo", "orpo", "ipo"])
def test_pairs(family, method, tmp_path):
    """The papers' equations, on rows some of whose tokens weigh less: weights count in sums, means, lengths and the reference."""
    trainer = make_trainer(tmp_path, f"method={method}", "method.beta=0.7", family=family)
    weights = [1.0, 0.5, 0.0, 1.0, 1.0, 2.0]
    rows = pair_rows()
    for row in rows if method in ("dpo", "ipo") else []:
        for one in row["sequences"]:
            one["weights"] = weights[: len(one["response"])]

    def scores(model, pair, side):
        own = token_scores(model, pair["prompt"], pair[side])
        return own * torch.tensor(weights[: len(own)]) if method in ("dpo", "ipo") else own

    def length(pair, side):
        return sum(weights[: len(pair[side])]) if method in ("dpo", "ipo") else len(pair[side])

    def oracle(model):
        total, tokens, likelihood = torch.zeros(()), 0, torch.zeros(())
        for pair in PAIRS:
            sums = {side: scores(model, pair, side).sum() for side in ("chosen", "rejected")}
            means = {side: value / length(pair, side) for side, value in sums.items()}
            if method in ("dpo", "ipo"):
                refs = {side: of_reference(model, lambda asked, pair=pair, side=side: scores(asked, pair, side).sum()) for side in sums}
                if method == "dpo":
                    h = (sums["chosen"] - refs["chosen"]) - (sums["rejected"] - refs["rejected"])
                    total = total - F.logsigmoid(0.7 * h)
                else:
                    apart = [(sums[side] - refs[side]) / length(pair, side) for side in ("chosen", "rejected")]
                    total = total + (apart[0] - apart[1] - 1 / 1.4) ** 2
            elif method == "simpo":
                total = total - F.logsigmoid(0.7 * (means["chosen"] - means["rejected"]) - 1.0)
            elif method == "cpo":
                total = total - F.logsigmoid(0.7 * (sums["chosen"] - sums["rejected"]))
                likelihood, tokens = likelihood - sums["chosen"], tokens + len(pair["chosen"])
            else:
                odds = {side: torch.exp(mean) / (1 - torch.exp(mean)) for side, mean in means.items()}
                total = total - 0.7 * F.logsigmoid(torch.log(odds["chosen"] / odds["rejected"]))
                ids = pair["prompt"] + pair["chosen"]
                likelihood, tokens = likelihood - token_scores(model, ids[:1], ids[1:]).sum(), tokens + len(ids) - 1
        return total / len(PAIRS) + (likelihood / tokens if tokens else 0.0)

    assert_equal(trainer, rows, oracle)


def test_sft_weighs_tokens_and_counts_each_once(tmp_path):
    trainer = make_trainer(tmp_path, "method=lora", "adapter.dropout=0")
    weights = [1.0, 0.5, 0.0, 2.0]
    rows = [
        {"sequences": [sequence(pair["prompt"], pair["chosen"], weights=weights[: len(pair["chosen"])])]}
        for pair in PAIRS[:4]
        if len(pair["chosen"]) <= 4
    ]

    def oracle(model):
        total, count = torch.zeros(()), 0.0
        for row in rows:
            (one,) = row["sequences"]
            own = token_scores(model, one["context"], one["response"])
            total, count = total - (own * torch.tensor(one["weights"])).sum(), count + sum(one["weights"])
        return total / count

    assert_equal(trainer, rows, oracle)


def test_the_reference_is_computed_in_the_arithmetic_of_a_step(tmp_path):
    """In bfloat16, policy and reference of a model whose adapter is zero are one to the bit: both go through autocast."""
    trainer = make_trainer(tmp_path, "method=dpo", "hardware.precision=bf16", "train.fast_path=false")
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    batch = trainer.data_collator(pair_rows())
    from lexalign.models.precision import make_autocast

    with torch.no_grad(), make_autocast(trainer.experiment):
        found = trainer.score(trainer.model, batch, details=False)
    sums = (found.log_probs * batch["weights"][:, 1:]).sum(1)
    reference = trainer.reference.look_up(batch)["sums"]
    assert torch.equal(sums, reference)
    with torch.no_grad():
        plain = trainer.score(trainer.model, batch, details=False)
    assert not torch.equal((plain.log_probs * batch["weights"][:, 1:]).sum(1), reference), "without autocast it is another number"
