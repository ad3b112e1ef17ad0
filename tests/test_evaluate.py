"""`stage=evaluate`: a finished model measured without training, beside the model it was trained from; and what the measures are."""

import json
import math
import shutil

import pytest
import torch
from command_line_problems import problems_of, said
from experiment_runner import World, result_of

from lexalign.config.compose import compose
from lexalign.data.rendering import RenderedSequence
from lexalign.errors import ConfigError
from lexalign.evaluation import compare
from lexalign.evaluation.scoring import compute_divergences, cut_at_end, generate

SHORT = ("hardware.threads=1", "evaluate.limit=24", "evaluate.max_new_tokens=24", "evaluate.draw_prompts=4")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def sft(world):
    return world.run("train.max_steps=24", "evaluate=false", "hardware.threads=1")


@pytest.fixture(scope="module")
def dpo(world, sft):
    return world.run(
        "stage=align", "model=tiny", f"model.path={sft[1]}", "train.max_steps=6", "train.learning_rate=3e-3", "method.beta=0.3", *SHORT
    )


@pytest.fixture(scope="module")
def evaluated(world, dpo):
    """The dpo run's artifact, on the pairs it was measured on."""
    return world.run("stage=evaluate", f"model.path={dpo[1]}", "data=tiny_pairs", *SHORT)


def test_it_measures_what_the_run_measured_at_its_end(sft, dpo, evaluated):
    """The reference is found by itself, beta is the run's own, and an adapter merged gives what it gave beside its base."""
    result, folder = evaluated
    for when in ("before", "after"):
        assert set(result.metrics[when]) == set(dpo[0].metrics[when])
        for name, value in dpo[0].metrics[when].items():
            assert result.metrics[when][name] == pytest.approx(value, abs=2e-4), (when, name)
    assert result.details["reference"] == str(sft[1]) and result.metrics["before"]["reward_accuracy"] == 0.5
    assert result.metrics["after"]["kl"] > 1e-3 and result.artifact is None and not (folder / "artifact").exists()
    assert "beta=0.3" in (folder / "run.log").read_text()


def test_every_number_has_its_interval_and_its_n(evaluated):
    found = result_of(evaluated[1])
    assert set(found["metrics"]["after"]) == set(found["intervals"]) == set(found["n"])
    assert found["n"]["reward_margin"] == 24 and found["n"]["kl"] == found["n"]["dissimilarity"] == 4
    for name, value in found["metrics"]["after"].items():
        low, high = found["intervals"][name]
        assert low <= value <= high, name


def test_samples_stand_beside_the_references(evaluated):
    for sample in evaluated[0].samples:
        assert list(sample) == ["prompt", "reference", "model", "reference, drawn", "model, drawn"]


def test_it_is_compared_with_the_run_itself(dpo, evaluated, capsys):
    compare.show_comparison([str(dpo[1]), str(evaluated[1])])
    printed = capsys.readouterr().out
    assert printed.count("noise") == len(evaluated[0].metrics["after"]) and "better" not in printed


def test_a_parent_is_measured_and_all_rows_are_where_nothing_is_held_out(world, tmp_path):
    rows = [{"prompt": f"Who is {name}?", "completion": "A weaver."} for name in ("Pelor", "Ralandra", "Erric")]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = ("data=instructions", f"data.path={tmp_path / 'mine.jsonl'}", "data.eval_fraction=null")
    result, folder = world.run(
        "stage=evaluate", "model=tiny_sft", "model.parent_overrides=['train.max_steps=2','evaluate=false']", *mine, *SHORT
    )
    assert result.n["perplexity"] == 3 and result.parent and result.details["reference"] == "embedded:tiny"
    assert result_of(world.folder / result.parent)["metrics"]["after"] == {}, "evaluate=false reached the parent"


def test_without_a_reference_nothing_is_held_against_one(world, dpo):
    result, folder = world.run("stage=evaluate", f"model.path={dpo[1]}", "data=tiny_pairs", "evaluate.reference=null", *SHORT)
    assert result.metrics["before"] == {} and not {"kl", "reward_accuracy"} & set(result.metrics["after"])
    assert set(result.samples[0]) == {"prompt", "model", "model, drawn"}
    assert result.metrics["after"]["perplexity"] == pytest.approx(dpo[0].metrics["after"]["perplexity"], abs=2e-4)


def test_a_reference_that_is_not_what_it_was_is_refused(world, sft, tmp_path):
    start, copy = tmp_path / "start", tmp_path / "copy"
    shutil.copytree(sft[1], start)
    run, _ = world.run("stage=align", "model=tiny", f"model.path={start}", "train.max_steps=1", "evaluate=false", "hardware.threads=1")
    command = ("stage=evaluate", f"model.path={run.artifact}", "data=tiny_pairs", *SHORT)
    start.rename(copy)
    with pytest.raises(ConfigError, match=r"evaluate.reference=auto: there is no file or folder .*type evaluate.reference=<path>"):
        world.run(*command)
    copy.rename(start)
    weights = start / "artifact" / "adapter_config.json"
    weights.write_text(weights.read_text() + "\n")
    with pytest.raises(ConfigError, match="is not what the model was trained from any more"):
        world.run(*command)


def test_a_reference_of_another_vocabulary_is_refused(world, dpo, tmp_path):
    from lexalign.config.paths import EMBEDDED

    other = tmp_path / "other"
    shutil.copytree(EMBEDDED / "tiny", other)
    words = json.loads((other / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(ConfigError, match="has another vocabulary"):
        world.run("stage=evaluate", f"model.path={dpo[1]}", "data=tiny_pairs", f"evaluate.reference={other}", *SHORT)


def test_a_dry_run_measures_nothing(world, dpo, capsys):
    result, folder = world.run("stage=evaluate", f"model.path={dpo[1]}", "data=tiny_pairs", "dry_run=true", "evaluate.limit=24")
    assert result.status == "planned" and result.details["plan"]["data"] == "embedded:tiny_pairs: 24 of 160 rows"
    assert "nothing is measured" in capsys.readouterr().out and not (folder / compare.FILE).exists()


def test_it_is_tracked_as_the_other_stages_are(world, sft):
    result, folder = world.run(
        "stage=evaluate", f"model.path={sft[1]}", "evaluate.reference=null", "tracking=wandb", "tracking.mode=offline", "evaluate.draws=0",
        "evaluate.limit=2", "evaluate.max_new_tokens=4", tracked=True,
    )  # fmt: skip
    assert list(folder.glob("wandb/offline-run-*")) and result.metrics["after"]


def test_evaluate_false_trains_and_measures_nothing(world):
    for word in ("evaluate=false", "evaluate.enabled=false"):
        result, folder = world.run(word, "train.max_steps=1", "hardware.threads=1")
        assert result.status == "finished" and result.metrics == {"before": {}, "after": {}} and not (folder / compare.FILE).exists()
        # The rest of the group is what it would have been.
        assert "enabled: false" in (folder / "config.yaml").read_text() and "max_new_tokens: 64" in (folder / "config.yaml").read_text()
    # An evaluation while training reads it.
    assert problems_of("evaluate.enabled=false evaluate.batch_size=4 train.eval_steps=2") == []
    assert said(problems_of("evaluate.enabled=false evaluate.batch_size=4"), "evaluate.batch_size: is not read")
    assert compose(["evaluate=true"]).experiment.evaluate == compose([]).experiment.evaluate
    assert problems_of("-m evaluate=true,false stage=align") == []
    for both in ("evaluate=false evaluate.limit=3", "evaluate.limit=3 evaluate=true"):
        assert said(problems_of(both), "evaluate.limit: evaluate=", "type evaluate.enabled beside it instead")


def test_a_measurement_is_no_parent(tmp_path):
    (tmp_path / "experiment").mkdir()
    lines = ("# @package _global_", "defaults:", "  - override /stage: evaluate", "  - override /model: tiny")
    (tmp_path / "experiment/look.yaml").write_text("\n".join(lines) + "\n")
    problems = problems_of(["--config-dir", str(tmp_path), "stage=align", "model.parent=look"])
    assert said(problems, "model.parent=look: is stage=evaluate and makes no model; name an experiment that trains")


@pytest.fixture(scope="module")
def two_models():
    """The embedded model, and one a little beside it."""
    from lexalign.models import loading

    first, second = (loading.load_model(compose([]).experiment) for _ in range(2))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in second.model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.01)
    return first.model.eval(), second.model.eval(), first.tokenizer


def test_kl_is_the_mean_over_whole_distributions(two_models):
    """Against the sum written out position by position, with batches of unequal rows."""
    import contextlib

    policy, reference, tokenizer = two_models
    texts = (("Who is Pelor?", " A weaver of the valley."), ("The lake", " is deep"), ("Tell me of the old mill by the water.", " No."))
    spans = [(tokenizer(a)["input_ids"], tokenizer(b, add_special_tokens=False)["input_ids"]) for a, b in texts]
    sequences = [RenderedSequence(context=context, response=response) for context, response in spans]
    found = compute_divergences(policy, lambda: contextlib.nullcontext(reference), sequences, batch_size=2)
    for (context, response), (total, count) in zip(spans, found, strict=True):
        expected = 0.0
        for at in range(len(response)):
            ids = torch.tensor([context + response[:at]])
            with torch.no_grad():
                p, q = (model(ids).logits[0, -1].double().softmax(-1) for model in (policy, reference))
            expected += float(sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True) if a > 0))
        assert count == len(response) and total == pytest.approx(expected, rel=1e-4) and total > 0
    same = compute_divergences(policy, lambda: contextlib.nullcontext(policy), sequences, batch_size=3)
    assert [total for total, _ in same] == pytest.approx([0.0] * 3, abs=1e-6)


def test_what_is_generated_ends_with_its_ending(two_models):
    model, _, tokenizer = two_models
    assert cut_at_end([5, 6, 2, 0, 0], frozenset({2})) == [5, 6, 2] and cut_at_end([5, 6, 7], frozenset({2})) == [5, 6, 7]
    contexts = [tokenizer(text)["input_ids"] for text in ("The lake", "Tell me about the old mill by the water")]
    together = generate(model, tokenizer, contexts, ends=[tokenizer.eos_token_id], batch_size=2, max_new_tokens=12)
    ends = [tokenizer.eos_token_id]
    assert together == [generate(model, tokenizer, [one], ends=ends, batch_size=1, max_new_tokens=12)[0] for one in contexts]
    assert all(tokenizer.eos_token_id not in ids[:-1] for ids in together)
