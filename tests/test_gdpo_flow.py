"""GFlowNet-DPO: its loss against a naive one, its scores against whole logits, and real training on the embedded model."""

import json
import re
from pathlib import Path

import pytest
import torch
from experiment_runner import World
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import FAMILIES, adapted, gradient, made, relative
from test_fast_path_forward import ALIKE, batch_of

from lexalign import losses
from lexalign.fast_path import fused_lora
from lexalign.fast_path import lm_head as head
from lexalign.fast_path.forward import IGNORED, install_forward

END = 2


def naive(actions, ends, ref_actions, ref_ends, spans, terminal, *, alpha):
    """The definition, state by state: `spans` are (first column, states) of each row."""
    found = []
    for row, (first, count) in enumerate(spans):
        flows = []
        for t in range(count):
            reward = ref_actions[row][first + t] + ref_ends[row][first + t]
            if t == count - 1:
                reward += alpha * terminal[row]
            flows.append(reward - ends[row][first + t])
        found.append(float(sum((flows[t] - flows[t + 1] + actions[row][first + t]) ** 2 for t in range(count - 1))))
    return found


def test_a_response_of_three_tokens_by_hand():
    """log R = (-3, -5, -2 - 0.8) and e = (-4, -3, -1), so log F = (1, -2, -1.8); a = (-1, -2, …)."""
    columns = [torch.tensor([values]) for values in ([-1.0, -2, -9], [-4.0, -3, -1], [-1.0, -2, -1.5], [-2.0, -3, -0.5])]
    mask = torch.ones(1, 3)
    loss = losses.flow_loss(*columns, mask, torch.tensor([-8.0]), alpha=0.1)
    assert loss.item() == pytest.approx((1 + 2 - 1) ** 2 + (-2 + 1.8 - 2) ** 2)
    chosen = losses.flow_loss(*columns, mask, torch.tensor([0.0]), alpha=0.1)
    assert chosen.item() == pytest.approx((1 + 2 - 1) ** 2 + (-2 + 1 - 2) ** 2)


ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6), st.integers(0, 3), st.sampled_from([0.0, -8.0])), min_size=1, max_size=5)


def drawn(rows, seed):
    """Columns, mask, spans and c of rows `(prompt, states, padding, c)`, garbage outside the mask."""
    width = max(first + count + pad for first, count, pad, _ in rows)
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randn(len(rows), width, generator=generator, dtype=torch.float64) for _ in range(4)]
    mask = torch.zeros(len(rows), width)
    for row, (first, count, *_) in enumerate(rows):
        mask[row, first : first + count] = 1
    return columns, mask, [row[:2] for row in rows], torch.tensor([row[3] for row in rows], dtype=torch.float64)


@settings(deadline=None)
@given(rows=ROWS, seed=st.integers(0, 10**6), alpha=st.floats(0.01, 2))
def test_the_loss_is_the_naive_one_whatever_the_batch_and_the_padding(rows, seed, alpha):
    columns, mask, spans, terminal = drawn(rows, seed)
    found = losses.flow_loss(*columns, mask, terminal, alpha=alpha)
    assert found.tolist() == pytest.approx(naive(*columns, spans, terminal.tolist(), alpha=alpha), abs=1e-9)
    garbage = [torch.where(mask.bool(), column, torch.inf) for column in columns]
    assert torch.equal(losses.flow_loss(*garbage, mask, terminal, alpha=alpha), found)
    wider = [torch.nn.functional.pad(column, (0, 3), value=7.0) for column in columns]
    padded = losses.flow_loss(*wider, torch.nn.functional.pad(mask, (0, 3)), terminal, alpha=alpha)
    assert torch.allclose(padded, found, rtol=1e-12, atol=1e-12), "but for the order in which a wider row is summed"
    for row, (first, count) in enumerate(spans):
        own = [column[row : row + 1, first : first + count] for column in columns]
        alone = losses.flow_loss(*own, torch.ones(1, count), terminal[row : row + 1], alpha=alpha)
        assert alone.item() == pytest.approx(found[row].item(), rel=1e-12, abs=1e-12)


def test_the_reward_has_no_gradient_and_the_policy_has_the_right_one():
    columns, mask, _, terminal = drawn([(1, 4, 1, 0.0), (0, 5, 1, -8.0), (2, 1, 0, 0.0)], 0)
    for column in columns:
        column.requires_grad_()
    loss = losses.flow_loss(*columns, mask, terminal, alpha=1.0)
    assert loss[2] == 0, "one token, no step"
    actions, ends, *reference = torch.autograd.grad(loss.sum(), columns, allow_unused=True)
    assert reference == [None, None]
    step = mask[:, :-1] * mask[:, 1:]
    assert ((actions[:, :-1] != 0) == step.bool()).all() and (actions[:, -1] == 0).all() and ((ends != 0) <= mask.bool()).all()
    assert torch.autograd.gradcheck(
        lambda a, e: losses.flow_loss(a, e, *(c.detach() for c in columns[2:]), mask, terminal, alpha=1.0), columns[:2]
    )


def test_a_policy_in_balance_has_no_loss():
    """Where the ends are chosen so that F(s_t)·π(y_{t+1}|s_t) = F(s_{t+1})."""
    columns, mask, _, terminal = drawn([(0, 5, 0, -8.0)], 1)
    actions, _, ref_actions, ref_ends = columns
    rewards = ref_actions + ref_ends
    rewards[0, -1] += 0.1 * terminal[0]
    flows = torch.cat((torch.zeros(1, 1), actions[:, :-1]), 1).cumsum(1)
    loss = losses.flow_loss(actions, rewards - flows, ref_actions, ref_ends, mask, terminal, alpha=0.1)
    assert loss.item() == pytest.approx(0, abs=1e-18)


MAPS = {"plain": head.LogitMap(), "scaled": head.LogitMap(scale=0.3), "capped": head.LogitMap(scale=1.7, cap=3.0)}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("frozen", [True, False])
def test_a_second_token_is_scored_with_the_first(name, frozen, monkeypatch):
    """Against whole logits in float64; across tiles, and where the target is that token itself."""
    monkeypatch.setattr(head, "TILE", 60)
    monkeypatch.setattr(head, "TOKENS", 4)
    generator = torch.Generator().manual_seed(0)
    lm_head = torch.nn.Linear(5, 23).requires_grad_(not frozen)
    hidden = torch.randn(11, 5, generator=generator).requires_grad_()
    targets = torch.randint(23, (11,), generator=generator)
    targets[3] = END
    weights = torch.randn(2, 11, generator=generator)
    found = head.score_targets(hidden, targets, lm_head, MAPS[name], also=END)
    exact = hidden.detach().double().requires_grad_()
    logits = MAPS[name](torch.nn.functional.linear(exact, lm_head.weight.detach().double(), lm_head.bias.detach().double()))
    wanted = logits.log_softmax(-1)
    pair = wanted.gather(1, targets[:, None])[:, 0], wanted[:, END]
    assert torch.allclose(found.log_probs.double(), pair[0], atol=2e-6) and torch.allclose(found.also.double(), pair[1], atol=2e-6)
    (ours,) = torch.autograd.grad((found.log_probs * weights[0] + found.also * weights[1]).sum(), hidden)
    (theirs,) = torch.autograd.grad((pair[0] * weights[0] + pair[1] * weights[1]).sum(), exact)
    assert relative(ours.double(), theirs) < 1e-5
    tempered = head.score_at_temperature(hidden, END, lm_head, MAPS[name], 0.1)
    assert torch.allclose(tempered.double(), (logits / 0.1).log_softmax(-1)[:, END], atol=1e-4, rtol=1e-5)
    assert not tempered.requires_grad
    assert head.score_targets(hidden[:0], targets[:0], lm_head, MAPS[name], also=END).also.shape == (0,)


def flows_of(model, batch, *, whole):
    """The loss of a batch from our forward, or from transformers' own and the whole logits."""
    ids, mask = batch["input_ids"], batch["completion_mask"][:, 1:].bool()
    if whole:
        log_probs = model(input_ids=ids, attention_mask=batch["attention_mask"], use_cache=False).logits[:, :-1].log_softmax(-1)
        actions, ends = log_probs.gather(-1, ids[:, 1:, None])[..., 0], log_probs[..., END]
    else:
        labels = ids.masked_fill(batch["completion_mask"] == 0, IGNORED)
        scores = model(
            input_ids=ids,
            attention_mask=batch["attention_mask"],
            labels=labels,
            also=END,
            details=False,
            use_cache=False,
            fused_lm_head=True,
        )
        actions, ends = scores.log_probs, scores.also
    terminal = torch.tensor([0.0, -8.0]).repeat_interleave(len(ids) // 2)
    generator = torch.Generator().manual_seed(5)
    reference = [-torch.rand(ids.shape[0], ids.shape[1], generator=generator)[:, 1:] for _ in range(2)]
    return losses.flow_loss(actions, ends, *reference, mask, terminal, alpha=0.5).mean()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_equal_those_of_whole_logits(family, packed):
    theirs, ours = adapted(made(family)), adapted(made(family))
    install_forward(ours.get_base_model(), packed=packed, alike=2)
    fused_lora.fuse_lora(ours)
    batch = batch_of(ALIKE)
    found, wanted = flows_of(ours, batch, whole=False), flows_of(theirs, batch, whole=True)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    found.backward(), wanted.backward()
    assert relative(gradient(ours), gradient(theirs)) < 1e-5


@pytest.mark.parametrize("packed", [True, False])
def test_the_end_may_be_the_padding_token(packed):
    """To the bit: masks tell them apart, never ids."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    model = adapted(made("qwen3"))
    install_forward(model.get_base_model(), packed=packed, alike=2)
    apart, one = (DataCollatorForPreference(pad_token_id=pad)(ALIKE) for pad in (0, END))
    assert not torch.equal(apart["input_ids"], one["input_ids"])
    assert torch.equal(flows_of(model, apart, whole=False), flows_of(model, one, whole=False))


# Real runs.

COMMON = ("stage=align", "method=gdpo_flow", "model=tiny", "hardware.threads=1")
SHORT = (*COMMON, "train.max_steps=4", "train.log_steps=1", "evaluate.enabled=false", "data.limit=16", "train.batch_size=4")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("flow"))


def logged(folder, name):
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines() if name in json.loads(line)]


def counts(folder):
    found = re.findall(r"Reference log-probabilities: (\d+) responses computed, (\d+) from the store", (folder / "run.log").read_text())
    return tuple(map(int, found[-1])) if found else None


@pytest.fixture(scope="module")
def paid(world):
    """A first short run, which computes its reference."""
    return world.run(*SHORT)[1]


def test_the_reference_is_paid_once(world, paid):
    computed, reused = counts(paid)
    assert computed >= 30 and reused == 0
    again = world.run(*SHORT, "train.learning_rate=1e-3", "seed=3", "method.alpha=0.7", "method.rejected_reward=-2")[1]
    assert counts(again)[0] == 0 and counts(again)[1] >= 32
    assert logged(world.run(*SHORT)[1], "loss") == logged(paid, "loss"), "from the store as computed, to the bit"


@pytest.mark.parametrize("other", ["method.gamma=0.2", "data.chat_template=never", "method=dpo"])
def test_another_gamma_other_tokens_and_sums_are_numbers_of_their_own(world, paid, other):
    command = [setting for setting in SHORT if not setting.startswith(other.split("=")[0] + "=")]
    assert counts(world.run(*command, other)[1])[0] == counts(paid)[0]


def test_a_torn_entry_is_computed_again(tmp_path):
    world = World(tmp_path)
    first = world.run(*SHORT)[1]
    (entry,) = (world.store / "reference").rglob("log_probs.safetensors")
    entry.write_bytes(entry.read_bytes()[:-5])
    second = world.run(*SHORT)[1]
    assert counts(second) == counts(first) and "damaged" in (second / "run.log").read_text()
    assert logged(second, "loss") == logged(first, "loss")


@pytest.mark.parametrize("extra", [(), ("adapter=full",), ("method.gamma=0.1",)])
def test_packed_and_padded_train_alike(world, extra):
    packed, padded = (world.run(*SHORT, *extra, f"train.fast_path={fast}")[1] for fast in ("true", "false"))
    assert "prompts shared" in (packed / "run.log").read_text() and "padded batches" in (padded / "run.log").read_text()
    assert logged(packed, "loss") == pytest.approx(logged(padded, "loss"), rel=1e-5)
    assert len(set(logged(packed, "loss"))) == 4


def test_training_moves_the_policy_into_balance(world):
    """Held-out pairs: the loss falls, and the preferred responses are preferred more often than by chance."""
    _, sft = world.run("stage=sft", "train.max_steps=60", "evaluate.enabled=false", "hardware.threads=1")
    result, folder = world.run(*COMMON, f"model.path={sft / 'artifact'}", "train.log_steps=5", "evaluate.draws=0", "evaluate.samples=0")
    losses_ = logged(folder, "loss")
    assert sum(losses_[-3:]) < 0.8 * sum(losses_[:3])
    assert result.score_name == "reward_accuracy" and result.metrics["before"]["reward_accuracy"] == 0.5
    assert result.intervals["reward_accuracy"][0] > 0.5 and result.metrics["after"]["reward_margin"] > 0
    assert "reward margin 0.00e+00 (wanted 0" in (folder / "run.log").read_text()
    assert {"loss/chosen_flow", "loss/rejected_flow", "rewards/margins"} <= set(
        json.loads((folder / "metrics.jsonl").read_text().split("\n")[0])
    )


def test_an_adapter_is_trained_on_beside_a_base_of_four_bits(world):
    """The reference is that adapter on that base, unrounded, so the first step's rewards are 0; and small steps are kept."""
    _, sft = world.run("stage=sft", "train.max_steps=16", "evaluate.enabled=false", "hardware.threads=1")
    common = [setting for setting in COMMON if not setting.startswith("model=")]
    start = (*common, "model=tiny", f"model.path={sft}", "adapter=qlora", "data.limit=32", "evaluate.enabled=false")
    result, folder = world.run(*start, "train.max_steps=8", "train.log_steps=1", "train.learning_rate=3e-3")
    found = logged(folder, "loss")
    assert "reward margin 0.00e+00 (wanted 0" in (folder / "run.log").read_text()
    assert len(found) == 8 and sum(found[-2:]) < 0.9 * sum(found[:2])
    assert json.loads((Path(result.artifact) / "manifest.json").read_text())["settings"]["adapter"]["bits"] == 4


def encoder(template, **special):
    from transformers import AutoTokenizer

    from lexalign.config.compose import compose
    from lexalign.config.paths import EMBEDDED
    from lexalign.data.rendering import Renderer

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "tiny", **special)
    tokenizer.chat_template = template
    return Renderer(tokenizer, compose(["stage=align", "model=tiny"]).experiment.data)


CHATML = "{% for m in messages %}<|user|>{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|user|>{% endif %}"


def test_the_end_is_what_ends_a_response_here():
    tokenizer = encoder(None).tokenizer
    names = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("end", "system")}
    assert encoder(None).end() == (names["end"], [])
    other = encoder(CHATML.replace("<|end|>", "<|system|>"))
    assert other.tokenizer.eos_token_id == names["end"] and other.end() == (names["system"], other.ids("\n"))
    assert encoder(CHATML.replace("<|end|>\n", "")).end() == (names["end"], [])


def test_what_a_template_writes_after_the_end_is_no_state(world, tmp_path):
    """The embedded model under a template that ends a turn with a line break: the same responses, the same losses."""
    from transformers import AutoTokenizer

    from lexalign.config.paths import EMBEDDED

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "tiny")
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content'] + eos_token", "message['content'] + eos_token + '\\n'")
    tokenizer.save_pretrained(tmp_path / "broken_lines")
    plain = world.run(*SHORT)[1]
    broken = world.run(*SHORT, f"model.tokenizer={tmp_path / 'broken_lines'}")[1]
    assert logged(broken, "loss") == logged(plain, "loss")
