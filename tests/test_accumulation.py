"""A step's loss and gradient do not depend on how its rows are split into batches: 8×1, 4×2 and 2×4 are 1×8, for every method."""

import logging

import pytest
from method_lab import PAIRS, answer_rows, loss_and_gradient, make_trainer, pair_rows, sequence
from small_models import relative

LABELS = [1, 0, 1, 1, 0, 1, 0, 0]


def believing_pairs():
    return [{**pair, "belief": [50 + at, 3][: 1 + at % 2]} for at, pair in enumerate(PAIRS)]


def rows_of(method, trainer):
    if method == "kto":
        return answer_rows(LABELS)
    if method == "lora":
        weighted = sequence([1, 2, 3], [4, 5, 6, 7, 8], weights=[1.0, 0.5, 0.0, 0.0, 1.0])
        return [*answer_rows()[:7], {"sequences": [weighted]}]
    if method == "gdpo":
        count = len(trainer.objective.belief_tokens)
        trainer.objective.belief_tokens %= 61  # the very small model knows so many tokens
        shares = [[1.0] + [0.0] * (count - 1) if at % 2 else [1 / count] * count for at in range(8)]
        return pair_rows(believing_pairs(), probabilities=shares)
    if method.endswith("_soft"):
        return pair_rows(soft_label=[0.5 + at / 16 for at in range(8)])
    return pair_rows()


LOSS_TYPES = ("sigmoid", "sft", "aot", "aot_unpaired")
OTHERS = ("ipo", "kto", "orpo", "cpo", "simpo", "gdpo", "gdpo_soft", "cdpo_soft", "gdpo_flow", "lora")
METHODS = [*(f"dpo method.loss_type={name}" for name in LOSS_TYPES), *OTHERS]


@pytest.mark.parametrize("method", METHODS)
def test_the_split_of_a_step_does_not_matter(method, tmp_path):
    trainer = make_trainer(tmp_path, *f"method={method}".split(), "train.batch_size=8")
    if method == "gdpo_flow":
        trainer.objective.__dict__["end_token"] = 2
    rows = rows_of(method.split()[0], trainer)
    whole, gradient = loss_and_gradient(trainer, rows)
    assert gradient.norm() > 0
    for size in (1, 2, 4):
        loss, other = loss_and_gradient(trainer, rows, size=size)
        assert loss == pytest.approx(whole, rel=1e-5), size
        assert relative(other, gradient) < 2e-5, size
    uneven = rows[:5]
    whole, gradient = loss_and_gradient(trainer, uneven)
    if method != "kto":  # its rows are paired in steps of 8
        loss, other = loss_and_gradient(trainer, uneven, size=2)
        assert loss == pytest.approx(whole, rel=1e-5) and relative(other, gradient) < 2e-5


def test_runs_of_one_step_and_of_accumulated_batches_are_alike(tmp_path):
    """As typed: 4 rows at once and 2 times 2; the same losses, kto's KL too."""
    import json

    from experiment_runner import World

    world = World(tmp_path)
    common = ("stage=align", "method=kto", "model=tiny", "train.max_steps=3", "train.log_steps=1", "evaluate.enabled=false",
              "hardware.threads=1", "train.learning_rate=1e-3", "data.limit=24")  # fmt: skip
    found = []
    for split in (("train.batch_size=8",), ("train.batch_size=2", "train.gradient_accumulation_steps=4")):
        folder = world.run(*common, *split)[1]
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found.append([(line["loss"], line["kl"], line["grad_norm"]) for line in lines if "loss" in line])
    assert len(found[0]) == 3
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_batches_of_a_number_of_tokens_weigh_rows_equally(tmp_path, caplog):
    """Two batches of unequal numbers of rows make one step: each row counts once."""
    caplog.set_level(logging.INFO)
    trainer = make_trainer(tmp_path, "method=dpo")
    rows = pair_rows()
    whole, gradient = loss_and_gradient(trainer, rows)
    batches = [trainer.data_collator(rows[:3]), trainer.data_collator(rows[3:])]
    totals = trainer.count_totals(batches)
    trainer.model.zero_grad(set_to_none=True)
    losses = [trainer.compute_loss(trainer.model, batch, num_items_in_batch=totals) for batch in batches]
    sum(losses).backward()
    assert float(sum(losses)) == pytest.approx(whole, rel=1e-5)
    from method_lab import gradient_by_name

    assert relative(gradient_by_name(trainer.model), gradient) < 2e-5
