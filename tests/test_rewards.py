"""Rewards one by one and together, TRL's advantages made of them, and real training with them on the embedded model."""

import itertools
import json
import math
import pickle
import shutil
import textwrap

import pytest
import torch
from command_line_problems import problems_of, said
from experiment_runner import World
from hydra.utils import get_class
from safetensors.torch import load_file

from lexalign.artifacts.provenance import Provenance
from lexalign.cache.tokens import TokenCache
from lexalign.config.compose import compose
from lexalign.data import rows as data_rows
from lexalign.data.rendering import Renderer
from lexalign.errors import ConfigError, RewardError
from lexalign.models import loading
from lexalign.rewards import ExactMatch, Format, Length, RewardModel
from lexalign.rewards.panel import Panel
from lexalign.stages.evaluate import find_panel

TEXTS = ["", "one", "one two", " one two three\n"]
LAB = """
from dataclasses import dataclass
from lexalign.rewards import Reward

@dataclass(kw_only=True)
class Given(Reward):
    values: list
    def __call__(self, prompts, completions, columns):
        return self.values[: len(completions)] if isinstance(self.values, list) else self.values

@dataclass(kw_only=True)
class Picky(Reward):
    loud: bool = False
    def __call__(self, prompts, completions, columns):
        if any("bad" in prompt for prompt in prompts):
            raise KeyError("no answer")
        return [1.0] * len(completions)

@dataclass(kw_only=True)
class Reader(Reward):
    reads = ("completion",)

class Stranger:
    pass
"""


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory):
    """A package of the user's own, with rewards in it."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "rewardlab.py").write_text(textwrap.dedent(LAB))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


def listed(*rewards: str) -> str:
    return f"method.rewards=[{','.join(rewards)}]"


def composed(*words: str):
    return compose(["stage=align", "model=tiny", "tracking=none", "extensions=[rewardlab]", *words]).experiment


def panel(*rewards: str, method: str = "grpo") -> Panel:
    found = Panel.from_experiment(composed(f"method={method}", listed(*rewards)))
    assert found is not None
    return found


def rows(*prompts: str) -> list[dict]:
    return [{"prompt": prompt, "completion": "one"} for prompt in prompts]


def test_the_shipped_rewards():
    columns = {"completion": ["", "One", "two", "one two three"]}
    assert ExactMatch()([], TEXTS, columns) == [1, 0, 0, 1] and ExactMatch(ignore_case=True)([], TEXTS, columns) == [1, 1, 0, 1]
    assert Length(cap=2)([], TEXTS, {}) == [1, 1, 1, 0] and Length()([], TEXTS, {}) == [0, 1, 2, 3]
    assert Length(target=2)([], [*TEXTS, "a b c d e"], {}) == [0, 0.5, 1, 0.5, 0]
    assert Length(unit="characters")([], TEXTS, {}) == [0, 3, 7, 13]
    assert Format(pattern="one.*")([], TEXTS, {}) == [0, 1, 1, 1]
    assert Format(pattern="t[a-z]o", whole=False)([], TEXTS, {}) == [0, 0, 1, 1]
    assert pickle.loads(pickle.dumps(Length(cap=3))) == Length(cap=3)


def test_a_reward_counts_where_its_condition_holds():
    judges = panel(
        "{_target_:lexalign.rewards.Length,name:long,when:{reward:short,at_least:1},weight:0.5}",
        "{_target_:lexalign.rewards.Length,name:short,cap:2,when:{reward:correct,at_least:1}}",
        "{_target_:lexalign.rewards.ExactMatch,name:correct,weight:2}",
    )
    found = judges.score(rows("a", "b", "c"), ["one", "one two", "one two three"])
    assert found == {"long": [1, 0, 0], "short": [1, 0, 0], "correct": [1, 0, 0]} and judges.total(found) == [3.5, 0, 0]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("[1,null]", "returned None at the prompt 'two' and the completion 'y'; let it return a finite number"),
        ("[.nan,1]", "returned nan at the prompt 'one'"),
        ("[1,.inf]", "returned inf at the prompt 'two'"),
        ("[1,1e30]", "returned 1e+30"),
        ("[1,high]", "returned 'high'"),
        ("[1]", "returned 1 numbers for 2 completions"),
        ("null", "returned None at the prompt 'one'"),
        ("high", "returned str"),
    ],
)
def test_what_is_no_reward_stops_the_run_by_name_and_row(values, told):
    values = values.replace(".nan", "nan").replace(".inf", "inf")
    judges = panel("{_target_:lexalign.rewards.ExactMatch}", f"{{_target_:rewardlab.Given,values:{values}}}")
    with pytest.raises(RewardError) as caught:
        judges.score(rows("one", "two"), ["x", "y"])
    assert str(caught.value).startswith("method.rewards[1] (given, rewardlab.Given) ") and told in str(caught.value)
    assert caught.value.exit_code == 8


def test_a_reward_that_raises_is_asked_for_the_row():
    with pytest.raises(
        RewardError, match=r"rewardlab.Picky\) raised KeyError: 'no answer' at the prompt 'a bad one' and the completion 'z'"
    ):
        panel("{_target_:rewardlab.Picky}").score(rows("good", "fine", "a bad one"), ["x", "y", "z"])


def test_the_users_own_rewards_are_read_not_imported(lab):
    (lab / "heavylab.py").write_text("raise RuntimeError('imported')\n" + textwrap.dedent(LAB))
    line = ["stage=align", "method=grpo", "extensions=[heavylab]"]
    assert problems_of([*line, listed("{_target_:heavylab.Picky,loud:true}")]) == []
    assert problems_of([*line, listed("{_target_:heavylab.Picky,lod:true}")]) == [
        "method.rewards[0].lod: Picky takes no such argument; it takes loud; did you mean loud?"
    ]
    assert problems_of([*line, listed("{_target_:heavylab.Given}")]) == ["method.rewards[0].values: is missing; Given needs it"]
    assert said(problems_of(["stage=align", "method=grpo", listed("{_target_:heavylab.Picky}")]), "'extensions=[mypackage]'")
    with pytest.raises(ConfigError, match=r"method.rewards\[0\] \(rewardlab.Stranger\): is not a subclass of lexalign.rewards.Reward"):
        panel("{_target_:rewardlab.Stranger}")
    with pytest.raises(ConfigError, match=r"data.columns.completion=null: method.rewards\[0\] \(reader\) reads it"):
        Panel.from_experiment(composed("method=grpo", "data=tiny_beliefs", listed("{_target_:rewardlab.Reader}")))


# TRL's own advantages -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainers(tmp_path_factory):
    """Our trainers as a run makes them, on two given rewards."""
    found = {}
    for method in ("grpo", "gdpo_rl"):
        folder = tmp_path_factory.mktemp(method)
        given = ("{_target_:rewardlab.Given,values:[0]}", "{_target_:rewardlab.Given,name:second,values:[0]}")
        experiment = composed(f"method={method}", listed(*given), f"store={folder}", "data.limit=40", "method.max_new_tokens=1")
        loaded, splits = loading.load_model(experiment), data_rows.load_rows(experiment)
        encoder = Renderer(loaded.tokenizer, experiment.data)
        assert experiment.method is not None
        found[method] = get_class(experiment.method.target)(
            experiment=experiment, loaded=loaded, splits=splits, renderer=encoder, tokens=TokenCache.of(experiment, encoder),
            out_dir=folder, callbacks=[],
        )  # fmt: skip
        found[method].model.train()
    return found


def advantages(trainer, rewards: torch.Tensor, *, scale: str = "group") -> torch.Tensor:
    """What TRL makes of rewards (Q, G, N=2): its own generation and scoring step, our rewards asked on the way; (Q, G)."""
    questions, generations, _ = rewards.shape
    trainer.num_generations = generations
    trainer.scale_rewards = scale
    for at, member in enumerate(trainer.panel.members):
        member.reward.values = rewards[..., at].flatten().tolist()
    batch = [trainer.train_dataset[question % len(trainer.train_dataset)] for question in range(questions) for _ in range(generations)]
    return trainer._generate_and_score_completions(batch)["advantages"].view(questions, generations)


def decoupled(rewards: torch.Tensor) -> torch.Tensor:
    """The weighted sum of normalised rewards before the batch is normalised, (Q, G) (arXiv 2601.05242, Eq. 4 and 5, weights 1)."""
    apart = rewards - rewards.mean(1, keepdim=True)
    return (apart / (rewards.std(1, keepdim=True) + 1e-4)).sum(-1)


def normalised(advantage: torch.Tensor) -> torch.Tensor:
    return (advantage - advantage.mean()) / (advantage.std() + 1e-4)


ROOT_HALF = math.sqrt(0.5)


def test_grpo_cannot_tell_one_reward_from_two_and_gdpo_can(trainers):
    """Two answers: none against one of two rewards, and none against both."""
    rewards = torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]])
    assert advantages(trainers["grpo"], rewards).flatten().tolist() == pytest.approx([-ROOT_HALF, ROOT_HALF] * 2, abs=2e-4)
    before = decoupled(rewards)
    assert before.flatten().tolist() == pytest.approx([-ROOT_HALF, ROOT_HALF, -2 * ROOT_HALF, 2 * ROOT_HALF], abs=4e-4)
    assert torch.allclose(advantages(trainers["gdpo_rl"], rewards), normalised(before), atol=1e-5)


@pytest.mark.parametrize(("generations", "wanted"), [(4, (7, 10, 14)), (8, (29, 36, 81))])
def test_distinct_groups_of_two_binary_rewards(trainers, generations, wanted):
    """GRPO sees sums 0, 1, 2 up to shift and scale: 1 group of one value, G-1 of two, (G-1)(G-2)/2 of three; without scale G-1 more."""
    kinds = list(itertools.product((0.0, 1.0), repeat=2))
    rewards = torch.tensor(list(itertools.combinations_with_replacement(kinds, generations)))

    def distinct(found: torch.Tensor) -> int:
        """Groups with the same advantages, in any order, count once; TRL's 1e-4 beside each deviation sets equal ones a little apart."""
        groups = found.sort(1).values
        return len({tuple(row.tolist()) for row in torch.cdist(groups, groups, p=float("inf")) < 2e-3})

    grpo, gdpo = trainers["grpo"], trainers["gdpo_rl"]
    found = distinct(advantages(grpo, rewards)), distinct(advantages(grpo, rewards, scale="none")), distinct(advantages(gdpo, rewards))
    assert found == wanted


def test_grpo_prefers_the_long_wrong_answer(trainers):
    rewards = torch.tensor([[[1.0, 0.0], [1.0, 100.0], [0.0, 200.0], [0.0, 300.0]]])
    assert int(advantages(trainers["grpo"], rewards).argmax()) == 3
    before = decoupled(rewards)
    assert before.flatten().tolist() == pytest.approx([-0.296, 0.479, -0.479, 0.296], abs=1e-3)
    assert torch.allclose(advantages(trainers["gdpo_rl"], rewards), normalised(before), atol=1e-5)


def test_groups_without_a_difference_are_counted(trainers):
    trainer = trainers["gdpo_rl"]
    trainer.log({"loss": 0.0})  # what other tests left in the window
    before = trainer.counts
    advantages(trainer, torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[2.0, 5.0], [2.0, 5.0]], [[0.0, 1.0], [1.0, 1.0]]]))
    after = trainer.counts
    assert {name: after[name] - before[name] for name in before if "group" in name} == {
        "groups": 3, "dead_groups/given": 2, "dead_groups/second": 2
    }  # fmt: skip
    trainer.log({"loss": 0.0})
    assert trainer.state.log_history[-1]["rewards/given/dead_groups"] == pytest.approx(2 / 3)


# A reward model -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A classifier with one output beside the embedded tokenizer, its head drawn here."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from lexalign.config.paths import EMBEDDED

    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(EMBEDDED / "tiny", num_labels=1, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED / "tiny").save_pretrained(folder)
    return folder


def test_a_reward_model_scores_as_its_own_forward_does(judge):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    judges = panel(f"{{_target_:lexalign.rewards.RewardModel,path:{judge},batch_size:2}}")
    asked = [{"prompt": "Who?"}, {"prompt": [{"role": "user", "content": "And you, there?"}]}, {"prompt": "Why?"}]
    said = ["Alda.", "Nobody at all.", "So."]
    found = judges.score(asked, said)["reward_model"]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(judge).eval(), AutoTokenizer.from_pretrained(judge)
    for prompt, answer, score in zip(("Who?", "And you, there?", "Why?"), said, found, strict=True):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
        assert score == pytest.approx(model(ids).logits[0, 0].item(), abs=1e-5)
    assert len(set(found)) == 3
    assert pickle.loads(pickle.dumps(judges.members[0].reward)) == RewardModel(path=str(judge), batch_size=2)


def test_what_is_no_reward_model_is_refused(tmp_path):
    from lexalign.config.paths import EMBEDDED

    reward = RewardModel(path=str(EMBEDDED / "tiny"))
    with pytest.raises(RewardError, match="is not a trained reward model|has 2 outputs"):
        reward.load("cpu")


# Training -------------------------------------------------------------------------------------------------------------------------------

PARENT = "model.parent_overrides=['train.epochs=2','evaluate.enabled=false']"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def learned(world):
    return world.run(
        "experiment=tiny/gdpo_rl", PARENT, "train.max_steps=14", "train.log_steps=2", "evaluate.limit=40", "evaluate.samples=1"
    )


def test_both_rewards_rise_on_held_out_prompts(learned):
    result, folder = learned
    before, after = result.metrics["before"], result.metrics["after"]
    assert after["reward/stance"] > before["reward/stance"] + 0.5 and after["reward/short"] > before["reward/short"] + 0.3
    assert (result.score_name, result.score_direction) == ("reward", "maximize") and result.score == after["reward"]
    assert after["reward"] == pytest.approx(after["reward/stance"] + after["reward/short"])
    kept = json.loads((folder / "measurements.json").read_text())["after"]["reward"]["values"]
    assert len(kept) == 40 and sum(kept) / 40 == pytest.approx(after["reward"])
    assert result.counts["groups"] == 14 * 4 and 0 < result.counts["dead_groups/stance"] < 14 * 4
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"rewards/stance/mean", "rewards/short/dead_groups", "entropy"} <= set(lines[0])
    log = (folder / "run.log").read_text()
    assert "Fast path: not for this method" in log and "The estimate stands alone" in log and "which taught nothing of it" in log


def test_a_finished_model_is_measured_by_the_rewards_it_was_trained_for(world, learned):
    trained, folder = learned
    again, _ = world.run(
        "stage=evaluate", f"model.path={folder}", "data=tiny_beliefs", "evaluate.limit=40", "evaluate.belief_samples=0", "evaluate.draws=0",
        "hardware.threads=1",
    )  # fmt: skip
    for when in ("before", "after"):
        for name in ("reward", "reward/stance", "reward/short"):
            # The adapter is merged here, so a greedy answer may turn where two tokens are as likely.
            assert again.metrics[when][name] == pytest.approx(trained.metrics[when][name], abs=0.03), (when, name)


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ({"_target_": "subprocess.run", "args": "ls"}, "code is only taken from lexalign"),
        ({"_target_": "lexalign.config.schema.Model"}, "is not made to be named as _target_"),
        ({"_target_": "lexalign.rewards.ExactMatch"}, "data.columns.completion=null: method.rewards[0] (exact_match) reads it"),
    ],
)
def test_rewards_that_a_model_names_and_these_data_or_this_command_do_not_allow_are_said(listed, told, caplog):
    experiment = compose(["stage=evaluate", "model=tiny", "data=tiny_beliefs"]).experiment
    assert find_panel(experiment, Provenance(manifest={"settings": {"method": {"rewards": [listed]}}})) is None
    assert "are not measured" in caplog.text and told in caplog.text


def weights(folder):
    return load_file(folder / "artifact" / "adapter_model.safetensors")


def test_a_resumed_run_ends_where_an_unbroken_one_does(world, learned):
    short = (
        "experiment=tiny/gdpo_rl",
        PARENT,
        "train.max_steps=4",
        "train.save_steps=2",
        "train.keep_checkpoints=2",
        "evaluate.enabled=false",
    )
    short += ("train.batch_size=16", "method.max_new_tokens=16", "method.beta=0.05")
    whole, folder = world.run(*short)
    broken = world.folder / "broken"
    (broken / "checkpoints").mkdir(parents=True)
    shutil.copytree(folder / "checkpoints" / "checkpoint-2", broken / "checkpoints" / "checkpoint-2")
    resumed, _ = world.run(*short, out_dir=broken)
    assert resumed.counts == whole.counts and whole.counts["groups"] == 8
    assert all(torch.equal(weights(folder)[name], value) for name, value in weights(broken).items())


def test_a_full_models_reference_is_the_model_it_starts_from(world, learned):
    """The sft adapter is merged into it; TRL would load the base without it."""
    result, folder = world.run(
        "experiment=tiny/grpo", PARENT, "adapter=full", "method.beta=0.1", "train.max_steps=2", "train.log_steps=1", "train.batch_size=16",
        "method.max_new_tokens=16", "method.iterations=2", listed("{_target_:lexalign.rewards.Format,pattern:zzz}"),
        "evaluate.enabled=false",
    )  # fmt: skip
    first, second, *_ = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert abs(first["kl"]) < 1e-6 and "Reference check at step 0: log-probabilities at most" in (folder / "run.log").read_text()
    # Two steps on the same answers, and a reward that never tells them apart is told.
    assert result.counts["groups"] == result.counts["dead_groups/format"] == 2
    assert "The reward format was the same for all answers of every one of 2 groups" in (folder / "run.log").read_text()


def test_both_rewards_train_beside_a_base_of_four_bits(world, learned):
    """The sft model is quantized, its adapter kept beside; what is drawn is drawn from both."""
    result, folder = world.run(
        "experiment=tiny/gdpo_rl", PARENT, "adapter=qlora", "method.beta=0.05", "train.max_steps=2", "train.log_steps=1",
        "train.batch_size=16", "method.max_new_tokens=16", "evaluate.enabled=false",
    )  # fmt: skip
    first, *_ = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert abs(first["kl"]) < 1e-6 and result.counts["groups"] == 4
    assert any(value.abs().max() > 0 for name, value in weights(folder).items() if "lora_B" in name)


def test_a_failing_reward_ends_the_run_with_its_name(world, learned):
    with pytest.raises(RewardError, match=r"method.rewards\[0\] \(given, rewardlab.Given\) returned nan at the prompt"):
        world.run(
            "stage=align", "method=grpo", "model=tiny", "extensions=[rewardlab]", "train.max_steps=1", "evaluate.enabled=false",
            listed("{_target_:rewardlab.Given,values:[nan,1,1,1,1,1,1,1]}"), "method.max_new_tokens=4", "train.batch_size=8",
        )  # fmt: skip


def test_prompts_that_fill_no_step_are_told(world, learned):
    from lexalign.errors import DataError

    small = ("stage=align", "method=grpo", "model=tiny", "evaluate.enabled=false", "method.max_new_tokens=4", "train.max_steps=1")
    with pytest.raises(DataError, match=r"3 prompts do not fill a step of 4 .*type train.batch_size=24 or less"):
        world.run(*small, "data.limit=3")
    result, folder = world.run(*small, "data.limit=5", "train.eval_steps=1", "train.log_steps=1")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("eval_reward" in line and "eval_rewards/correct/dead_groups" in line for line in lines)
    assert result.counts["prompts_left_out_each_epoch"] == 1
    assert "1 of 5 prompts are left out of each epoch" in (folder / "run.log").read_text()


def test_your_own_prompts_and_the_plan(world, tmp_path):
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(40)))
    own = ["stage=align", "method=gdpo_rl", "model=tiny", "data=instructions", f"data.path={tmp_path}/prompts.jsonl"]
    rewards = listed("{_target_:lexalign.rewards.Length,cap:5}", "{_target_:lexalign.rewards.Format,pattern:'.*[.]'}")
    assert said(problems_of([*own, rewards]), "data.columns.completion=completion", "or data.columns.completion=null to do without")
    plan, _ = world.run(*own, rewards, "data.columns.completion=null", "dry_run=true", "train.epochs=2")
    assert plan.status == "planned" and plan.counts["steps"] == 2 * (36 // 4)


def test_a_sweep_over_both_methods(world, learned):
    done = world.type(
        "-m", "stage=align", "model=tiny", "method=grpo,gdpo_rl", "train.max_steps=1", "evaluate.enabled=false", "train.batch_size=8",
        "data.limit=8", "tracking=none", "output_dir=sweep", "store=store",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [json.loads((world.folder / "sweep" / job / "result.json").read_text())["method"] for job in "01"] == ["grpo", "gdpo_rl"]
