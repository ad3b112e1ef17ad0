"""The promises of the embedded world, each shown by training on it: nothing here is mocked."""

import json
import re

import pytest
from experiment_runner import World, cpu_of_children, result_of

from lexalign.artifacts.manifest import find_damage, read_manifest

SEEDS = (0, 1, 2)
UNDRAWN = ("evaluate.draws=0", "evaluate.samples=0")
"""For runs of which no drawn response is looked at; gdpo's own draws (`evaluate.belief_samples`) stay."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def quickstart(world):
    """`python run.py stage=align method=gdpo`, nothing before it, as README has it (but for the place)."""
    before = cpu_of_children()
    done = world.type("stage=align", "method=gdpo", "output_dir=quickstart", "store=store", "tracking=none")
    assert done.returncode == 0, done.stderr[-3000:]
    return done, world.folder / "quickstart", cpu_of_children() - before


@pytest.fixture(scope="module")
def parent(world, quickstart):
    """The sft run that the quickstart ran first."""
    return result_of(next((world.store / "parents").iterdir()))


def test_quickstart_takes_under_two_minutes_on_two_cores(quickstart):
    # CPU seconds, because the machine may be busy with other things; two cores have 240 of them in two minutes.
    assert quickstart[2] < 240


def test_sft_lifts_exact_match_on_held_out_names(parent):
    assert parent["metrics"]["before"]["exact_match"] < 0.1
    assert parent["metrics"]["after"]["exact_match"] > 0.8
    assert (parent["score_name"], parent["score_direction"]) == ("exact_match", "maximize")


def test_quickstart_leaves_a_whole_run(quickstart):
    done, folder, _ = quickstart
    result = result_of(folder)
    assert result["status"] == "finished" and result["stage"] == "align" and result["method"] == "gdpo"
    assert result["score_name"] == "belief_jsd" and result["score"] == result["metrics"]["after"]["belief_jsd"]
    assert re.fullmatch("[0-9a-f]{32}", result["key"]) and result["seconds"] > 0
    for name in (
        "config.yaml",
        "run.log",
        "metrics.jsonl",
        "checkpoints",
        "artifact/manifest.json",
        "artifact/adapter_model.safetensors",
        "artifact/tokenizer.json",
    ):
        assert (folder / name).exists(), name
    assert find_damage(folder / "artifact") is None
    manifest = read_manifest(folder / "artifact")
    assert {"versions", "git_commit", "seed", "model", "data", "files", "base"} <= set(manifest)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["step"] == result["counts"]["steps"] and "loss" in steps[0] and "tokens_per_second" in steps[-2]
    assert "tokens/s" in done.stderr and "loss" in done.stderr
    assert "before" in done.stdout and "belief_jsd (score)" in done.stdout and str(folder / "artifact") in done.stdout.replace("\n", "")
    assert len(result["samples"]) == 3 and all(sample["after"] for sample in result["samples"])


def test_reference_is_the_sft_model_at_step_0(quickstart):
    log = (quickstart[1] / "run.log").read_text()
    margin = float(re.search(r"Reference check at step 0: reward margin (\S+)", log).group(1))
    assert abs(margin) < 1e-3


def test_dpo_prefers_the_courteous_answer(world, quickstart):
    result, folder = world.run("stage=align", *UNDRAWN)
    assert result.metrics["before"]["reward_accuracy"] == 0.5
    assert result.score > 0.9 and result.score_name == "reward_accuracy"
    assert "reusing" in (folder / "run.log").read_text(), "the sft parent was trained once, by the quickstart"
    assert len(list((world.store / "parents").iterdir())) == 1


@pytest.mark.parametrize("seed", [SEEDS[0], *(pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:])])
def test_gdpo_calibrates_where_dpo_does_not(world, quickstart, seed):
    """The gate, at equal training settings: less than half of dpo's distance to the known shares, and more responses that agree with their
    belief. `bench/gdpo.py` holds a second world to it, with its ablations and 16 samples a question."""
    equal = ("train.learning_rate=3e-3", "train.epochs=3", "train.batch_size=8", "method.beta=0.5")
    common = ("stage=align", "data=tiny_beliefs", f"seed={seed}", "evaluate.belief_samples=4", *UNDRAWN, *equal)
    gdpo = world.run(*common, "method=gdpo")[0].metrics
    dpo = world.run(*common, "method=dpo")[0].metrics
    assert gdpo["before"]["belief_jsd"] == pytest.approx(dpo["before"]["belief_jsd"])
    assert gdpo["after"]["belief_jsd"] < 0.5 * dpo["after"]["belief_jsd"]
    assert gdpo["after"]["belief_consistency"] > dpo["after"]["belief_consistency"]


def test_soft_labels_are_learned_and_the_conservative_loss_is_calibrated(world, quickstart):
    """Both come nearer to the judges' shares; only conservative DPO has its optimum there, geometric DPO overshoots."""
    found = {name: world.run("stage=align", f"method={name}", *UNDRAWN)[0] for name in ("gdpo_soft", "cdpo_soft")}
    for result in found.values():
        assert result.score_name == "soft_label_error" and result.score_direction == "minimize"
        assert result.score < 0.7 * result.metrics["before"]["soft_label_error"] and result.metrics["after"]["reward_accuracy"] > 0.9
    assert found["cdpo_soft"].score < 0.12 < found["gdpo_soft"].score


def test_each_group_has_its_distance(world, quickstart, tmp_path):
    """Two groups in one file, told apart by their prompts: the distance to the shares is reported for each."""
    import json

    from lexalign.config.paths import EMBEDDED

    for file in (EMBEDDED / "data/tiny_beliefs").iterdir():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        named = [{**row, "group": "dance" if "dance" in row["prompt"] else "other"} for row in rows]
        (tmp_path / file.name).write_text("".join(json.dumps(row) + "\n" for row in named))
    result, _ = world.run(
        "stage=align",
        "method=gdpo",
        f"data.path={tmp_path}",
        "data.columns.group=group",
        "train.max_steps=2",
        "evaluate.belief_samples=0",
        *UNDRAWN,
    )
    after = result.metrics["after"]
    assert {name for name in after if name.startswith("belief_jsd")} == {"belief_jsd", "belief_jsd/dance", "belief_jsd/other"}
    assert (
        min(after["belief_jsd/dance"], after["belief_jsd/other"])
        <= after["belief_jsd"]
        <= max(after["belief_jsd/dance"], after["belief_jsd/other"])
    )
