"""Faults put into losses, methods, trainer, reference and measures, one at a time: at least 95 of 100 are caught by a quick test."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass

import pytest
from experiment_runner import ROOT

WANTED = 0.95
LOSSES, ORACLES = ["tests/test_losses.py"], ["tests/test_oracles.py"]
TOKENS = ["tests/test_rendering_tokens.py", "-k", "masks_of_a_gdpo or gives_back or weights_reach"]


def oracle(*names: str) -> list[str]:
    """Tests of test_oracles.py by a part of their names, on one family."""
    return [*ORACLES, "-k", " or ".join(f"({name} and (qwen3 or not llama and not gemma3))" for name in names)]


SPLIT = ["tests/test_accumulation.py", "-k", "split"]
REFERENCE = ["tests/test_reference.py"]
LOG = ["tests/test_checkpoint_log.py"]
MEASURES = ["tests/test_evaluation_oracles.py"]
METRICS = ["tests/test_metrics.py"]


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new` in a file below lexalign/, and one of the tests should fail."""

    file: str
    old: str
    new: str
    tests: list[str]


MUTANTS = [
    # Losses
    Mutant("losses.py", "return (chosen - rejected) - (ref_chosen - ref_rejected)", "return chosen - rejected", oracle("test_gdpo")),
    Mutant(
        "losses.py",
        "return (chosen - rejected) - (ref_chosen - ref_rejected)",
        "return (rejected - chosen) - (ref_rejected - ref_chosen)",
        LOSSES,
    ),
    Mutant("losses.py", "return -F.logsigmoid(beta * logits)\n", "return -F.logsigmoid(logits)\n", LOSSES),
    Mutant(
        "losses.py",
        "(chosen_mean - rejected_mean - 1 / (2 * beta)).square()",
        "(chosen_mean - rejected_mean - 1 / beta).square()",
        oracle("test_pairs and ipo"),
    ),
    Mutant("losses.py", "beta * ((2 * soft_label - 1) * logits)", "beta * (soft_label * logits)", LOSSES),
    Mutant("losses.py", "- (1 - soft_label) * F.logsigmoid(-beta * logits)", "- (1 - soft_label) * F.logsigmoid(beta * logits)", LOSSES),
    Mutant("losses.py", "logits.float().log_softmax(-1)[:, belief_tokens]", "logits.float()[:, belief_tokens].log_softmax(-1)", LOSSES),
    Mutant("losses.py", "torch.xlogy(shares, shares) - shares * log_probs", "-shares * log_probs", LOSSES),
    Mutant("losses.py", "- belief_weight * belief_log_probs", "+ belief_weight * belief_log_probs", LOSSES),
    Mutant("losses.py", "calibration_weight * calibration", "calibration", LOSSES),
    Mutant("losses.py", "is_last = mask & ~F.pad(has_step, (0, 1))", "is_last = mask", ["tests/test_gdpo_flow.py", "-k", "hand or naive"]),
    Mutant(
        "losses.py", "log_flows = log_rewards - ends", "log_flows = log_rewards + ends", ["tests/test_gdpo_flow.py", "-k", "hand or naive"]
    ),
    Mutant("losses.py", "* is_last).detach()", "* is_last)", ["tests/test_gdpo_flow.py", "-k", "no_gradient or gradient_and"]),
    Mutant("losses.py", "sign = 2 * labels - 1", "sign = labels", oracle("test_kto")),
    Mutant(
        "losses.py",
        "labels * desirable_weight + (1 - labels) * undesirable_weight",
        "labels * undesirable_weight + (1 - labels) * desirable_weight",
        oracle("test_kto"),
    ),
    Mutant("losses.py", "beta * sign * (log_ratios - kl)", "beta * sign * log_ratios", [*ORACLES, "-k", "kl_above_zero"]),
    Mutant("losses.py", "- (log_one_minus_exp(chosen) - log_one_minus_exp(rejected))", "", oracle("test_pairs and orpo")),
    Mutant("losses.py", "(chosen_mean - rejected_mean) - gamma)", "(chosen_mean - rejected_mean))", oracle("test_pairs and simpo")),
    Mutant(
        "losses.py",
        "return -F.logsigmoid(beta * (chosen - rejected))",
        "return -F.logsigmoid(chosen - rejected)",
        oracle("test_pairs and cpo"),
    ),
    # Methods
    Mutant(
        "trainers/gdpo.py",
        "beliefs = (scores.log_probs[:pairs] * mask).sum(1) / mask.sum(1)",
        "beliefs = (scores.log_probs[:pairs] * mask).sum(1)",
        oracle("test_gdpo"),
    ),
    Mutant("trainers/gdpo.py", "    scores_belief = True\n", "", oracle("test_gdpo")),
    Mutant("trainers/gdpo.py", '*scores.reference["sums"].chunk(2)', '*(0 * scores.reference["sums"]).chunk(2)', oracle("test_gdpo")),
    Mutant("trainers/gdpo_flow.py", ">= len(actions) // 2", "> len(actions) // 2", oracle("test_gdpo_flow")),
    Mutant("trainers/gdpo_flow.py", "loss=(chosen + rejected_flows) / 2", "loss=chosen + rejected_flows", oracle("test_gdpo_flow")),
    Mutant("trainers/gdpo_flow.py", "return self.method.gamma", "return 1.0", oracle("test_gdpo_flow")),
    Mutant("trainers/gdpo_soft.py", "loss=loss, rewards", 'loss=loss * scores.extras["soft_label"], rewards', oracle("test_soft_labels")),
    Mutant("trainers/kto.py", 'sequences[at - 1]["response"]', 'sequences[at]["response"]', oracle("test_kto")),
    Mutant("trainers/kto.py", "max(0.0, total / count)", "total / count", [*ORACLES, "-k", "kl_above_zero"]),
    Mutant("trainers/kto.py", "rows[first : first + step]", "rows[first : first + 2]", SPLIT),
    Mutant("trainers/orpo.py", "    scores_prompts = True\n", "", oracle("test_pairs and orpo")),
    Mutant(
        "trainers/orpo.py",
        "chosen, rejected = scores.means.chunk(2)",
        "chosen, rejected = scores.sums.chunk(2)",
        oracle("test_pairs and orpo"),
    ),
    Mutant(
        "trainers/cpo.py",
        "chosen, rejected = scores.sums.chunk(2)",
        "chosen, rejected = scores.means.chunk(2)",
        oracle("test_pairs and cpo"),
    ),
    Mutant(
        "trainers/cpo.py",
        "self.method.cpo_alpha * likelihood,",
        "likelihood.sum(1) / scores.lengths[: len(chosen)],",
        oracle("test_pairs and cpo"),
    ),
    Mutant("trainers/sft.py", "-(scores.log_probs * scores.weights)", "-scores.log_probs", [*ORACLES, "-k", "sft_weighs"]),
    Mutant("trainers/dpo.py", "return chosen - rejected\n", "return rejected - chosen\n", oracle("test_pairs and dpo")),
    Mutant("trainers/dpo.py", "scores.log_ratios / scores.lengths", "scores.log_ratios", oracle("test_pairs and ipo")),
    Mutant("trainers/dpo.py", 'return self.method.loss_type in ("aot", "aot_unpaired")', "return False", SPLIT),
    # Objective, collator, coupling
    Mutant(
        "training/objective.py",
        'return self.sums - self.reference["sums"]',
        'return self.sums + self.reference["sums"]',
        oracle("test_pairs and dpo"),
    ),
    Mutant(
        "training/objective.py",
        "return (self.log_probs * self.weights).sum(1)",
        "return self.log_probs.sum(1)",
        oracle("test_pairs and dpo"),
    ),
    Mutant(
        "training/collator.py",
        'response"])[: self.max_length] for sequence in sequences]\n        weights',
        'response"]) for sequence in sequences]\n        weights',
        TOKENS,
    ),
    Mutant("training/collator.py", "scored[:first] |= belief[:first].bool()", "scored |= belief.bool()", TOKENS),
    Mutant("training/collator.py", "trained_weight[:first, 1:].sum()", "trained_weight[:first].sum()", TOKENS),
    Mutant("training/collator.py", "spans.append((row[:start], row[start:length]", "spans.append((row[:start], row[start:]", TOKENS),
    Mutant("training/coupling.py", "self.next += 1", "self.next += 0", SPLIT),
    # Trainer
    Mutant("training/trainer.py", "output.loss.sum() / totals.rows", "output.loss.mean()", SPLIT),
    Mutant(
        "training/trainer.py",
        "output.token_loss.sum() / max(1.0, totals.tokens)",
        "output.token_loss.sum() / max(1.0, float(len(output.token_loss)))",
        SPLIT,
    ),
    Mutant("training/trainer.py", 'batch["counts"]["rows"]] - 1', 'batch["counts"]["rows"]]', oracle("test_gdpo")),
    Mutant(
        "training/trainer.py",
        "if totals.measured is None:\n            totals.measured = self.objective.measure_step(self, totals.batches)",
        "if True:\n            totals.measured = self.objective.measure_step(self, totals.batches[:1])",
        SPLIT,
    ),
    Mutant("training/trainer.py", 'return {"tokens": self.computed_tokens,', 'return {"tokens": 0,', LOG),
    Mutant("training/trainer.py", "self.metrics[mode].restore(sums)", "pass", LOG),
    Mutant("training/trainer.py", "if self.checkpointing.is_done():", "if False:", LOG),
    # Checkpoints
    Mutant(
        "training/checkpointing.py",
        'self.window, self.total, self.seconds = state["window"], state["total"], state["seconds"]',
        'self.seconds = state["seconds"]',
        LOG,
    ),
    Mutant("training/checkpointing.py", 'logs["train_loss"] = ', 'logs["train_lost"] = ', LOG),
    # Reference
    Mutant("cache/reference.py", "([len(context)], context, response)", "(context, response)", TOKENS),
    Mutant("cache/reference.py", "    if weights is not None:\n        parts.append", "    if False:\n        parts.append", TOKENS),
    Mutant("training/reference.py", "stack.enter_context(make_autocast(trainer.experiment))", "pass", [*ORACLES, "-k", "arithmetic"]),
    Mutant("training/reference.py", "stack.enter_context(use_start_model(policy))", "pass", REFERENCE),
    Mutant(
        "training/reference.py", "(token_scores.log_probs * weights).sum(1).tolist()", "token_scores.log_probs.sum(1).tolist()", REFERENCE
    ),
    Mutant(
        "training/reference.py", 'key = f"{key}-end-{objective.end_token}-gamma-{objective.reference_temperature!r}"', "pass", REFERENCE
    ),
    Mutant(
        "training/reference.py",
        "            if self.is_counting:\n                self.cache.add",
        "            if True:\n                self.cache.add",
        REFERENCE,
    ),
    Mutant("models/adapters.py", "copy.data = weight.data.clone()", "copy.data = weight.data", REFERENCE),
    Mutant("models/adapters.py", "        model.set_adapter(active_adapter)\n", "        pass\n", REFERENCE),
    # Measures
    Mutant("evaluation/scoring.py", "float((response_log_probs * weights).sum())", "float(response_log_probs.sum())", MEASURES),
    Mutant(
        "evaluation/scoring.py",
        "rows = [sequences[i].ids[:max_length] for i in indices]",
        "rows = [sequences[i].ids for i in indices]",
        MEASURES,
    ),
    Mutant("evaluation/scoring.py", "divergences = (p.exp() * (p - q)).sum(-1)", "divergences = (q.exp() * (q - p)).sum(-1)", MEASURES),
    Mutant("evaluation/samples.py", "zip(parts, tokens, strict=True)], tokens)", "zip(parts, tokens, strict=True)])", MEASURES),
    Mutant("evaluation/pairs.py", "evaluator.beta * ((c - rc) - (r - rr))", "evaluator.beta * (c - r)", MEASURES),
    Mutant("evaluation/beliefs.py", "[p / (sum(probs) or 1.0) for p in probs]", "[p for p in probs]", MEASURES),
    Mutant(
        "evaluation/likelihood.py",
        "measurement.record(name, losses, tokens, exponential",
        "measurement.record(name, losses, exponential",
        MEASURES,
    ),
    Mutant("evaluation/metrics.py", "0.5 if margin == 0 else float(margin > 0)", "float(margin >= 0)", METRICS),
    Mutant("evaluation/metrics.py", "policy[top] / shares[top]", "policy[top]", METRICS),
    Mutant("evaluation/metrics.py", "return math.sqrt(max(0.0,", "return (max(0.0,", METRICS),
]


def test_the_faults_can_be_put_in():
    """Each text stands in its file: a mutant that changes nothing is caught by nothing."""
    missing = [
        f"{mutant.file}: {mutant.old}"
        for mutant in MUTANTS
        if mutant.old not in (ROOT / "lexalign" / mutant.file).read_text(encoding="utf-8")
    ]
    assert missing == [] and len(MUTANTS) >= 60


def test_every_fault_can_be_made():
    """A fault whose text is not in its file any more changes nothing, and would seem to be missed."""
    gone = [f"{mutant.file}: {mutant.old!r}" for mutant in MUTANTS if mutant.old not in (ROOT / "lexalign" / mutant.file).read_text()]
    assert gone == []


@pytest.mark.slow
def test_faults_are_caught(tmp_path):
    copy = tmp_path / "copy"
    for name in ("lexalign", "conf", "tests", "pyproject.toml", "run.py", "docs"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            copy.mkdir(exist_ok=True)
            shutil.copy(source, copy / name)
    only = os.environ.get("MUTANTS")  # a range of numbers, as in 0:10
    chosen = (
        list(enumerate(MUTANTS))[slice(*(int(part) if part else None for part in only.split(":")))] if only else list(enumerate(MUTANTS))
    )
    # First the tests themselves on the sound copy: what fails there catches nothing.
    sound = sorted({json.dumps(mutant.tests) for _, mutant in chosen})
    work = [{"number": -1 - at, "file": "losses.py", "old": "", "new": "", "tests": json.loads(tests)} for at, tests in enumerate(sound)]
    work += [{"number": number, **asdict(mutant)} for number, mutant in chosen]
    path = os.pathsep.join(
        part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and not (ROOT.__class__(part) / "lexalign").is_dir()
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/mutation_server.py"), str(copy)], input=json.dumps(work), capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    codes = {line["number"]: line["code"] for line in map(json.loads, done.stdout.splitlines())}
    alive = [f"{mutant.file}: {mutant.old!r} -> {mutant.new!r}" for number, mutant in chosen if codes[number] == 0]
    print(f"{len(chosen) - len(alive)} of {len(chosen)} caught; alive: {alive}")
    broken = [sound[-1 - number] for number, code in codes.items() if number < 0 and code != 0]
    assert broken == [], done.stderr[-3000:]
    assert 99 not in codes.values(), "another checkout was tested"
    unread = [f"{mutant.file}: {mutant.new!r}" for number, mutant in chosen if codes[number] not in (0, 1)]
    assert unread == [], "a mutant that cannot even be imported says nothing of the tests"
    assert len(alive) <= (1 - WANTED) * len(chosen), alive
