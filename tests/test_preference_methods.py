"""DPO's kin (ipo, kto, orpo, cpo, simpo): trained for real, held against bare TRL, resumed; and the unpaired rows that kto reads."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from experiment_runner import World

from lexalign.artifacts import fingerprint
from lexalign.config.compose import compose
from lexalign.config.paths import EMBEDDED
from lexalign.data import rows
from lexalign.errors import DataError
from lexalign.evaluation.unpaired import measure_labels

METHODS = ("ipo", "kto", "orpo", "cpo", "simpo")
REFERENCE_FREE = ("orpo", "cpo", "simpo")
STEPS = 3
DRAWN = "evaluate.draws=0"
BARE = ("evaluate=false", "preflight=skip")
TOLERANCE = 1e-5
COMMON = ("stage=align", "model=tiny", "hardware.threads=1", "train.log_steps=1", "train.epochs=1", "train.learning_rate=1e-3")
EXACT = (f"train.max_steps={STEPS}", "train.batch_size=4", "train.scheduler=constant", "train.warmup_steps=0", *BARE)
KNOBS = {"ipo": {"beta": 0.7}, "kto": {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.8}, "orpo": {"beta": 0.4},
         "cpo": {"beta": 0.3, "cpo_alpha": 0.6}, "simpo": {"beta": 1.5, "gamma": 0.7}}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("kin"))


@pytest.fixture(scope="module")
def sft(world):
    """A model that has begun to answer."""
    return world.run("stage=sft", "train.max_steps=20", "evaluate.enabled=false", "hardware.threads=1")[1] / "artifact"


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_what_held_out_rows_show(world, sft, method):
    result, folder = world.run(
        *COMMON,
        f"method={method}",
        f"model.path={sft}",
        "train.max_steps=8",
        "train.batch_size=16",
        "evaluate.limit=80",
        "evaluate.samples=0",
        DRAWN,
    )
    before, after = result.metrics["before"], result.metrics["after"]
    assert result.score_name == ("label_auc" if method == "kto" else "reward_accuracy") and result.score_direction == "maximize"
    assert before[result.score_name] == 0.5 and result.score > 0.8
    assert after["label_margin" if method == "kto" else "reward_margin"] > 0.01
    log, lines = (folder / "run.log").read_text(), (folder / "metrics.jsonl").read_text().splitlines()
    assert ("No reference to check at step 0" in log) == (method in REFERENCE_FREE)
    assert ("Reference check at step 0: reward margin" in log) == (method not in REFERENCE_FREE)
    assert "28 LoRA layers fused" in log and json.loads(lines[-2])["num_tokens"] > 1000
    if method == "kto":
        assert after["label_accuracy"] > 0.6 and "exact_match" not in after and "loss" not in after and after["perplexity"] > 1
        assert "129 desirable and 231 undesirable rows" in log and "Reference log-probabilities: " in log


def stored(name: str) -> list[dict]:
    return [json.loads(line) for line in (EMBEDDED / f"data/{name}/train.jsonl").read_text().splitlines()]


def turn(role: str, text: str) -> list[dict]:
    return [{"role": role, "content": text}]


def bare(method: str):
    """TRL's trainer and arguments as its users call them, with the rows in its own layout."""
    import trl
    from datasets import Dataset
    from trl.experimental import cpo, orpo

    knobs = dict(KNOBS[method])
    if method == "kto":
        own = stored("tiny_unpaired")
        data = [{**row, "prompt": turn("user", row["prompt"]), "completion": turn("assistant", row["completion"])} for row in own]
        return trl.KTOTrainer, trl.KTOConfig, knobs, Dataset.from_list(random.Random(0).sample(data, len(data)))
    if method == "simpo":
        knobs = {"beta": knobs["beta"], "simpo_gamma": knobs["gamma"], "loss_type": "simpo", "cpo_alpha": 0.0}
    found = {
        "ipo": (trl.DPOTrainer, trl.DPOConfig, {**knobs, "loss_type": "ipo"}),
        "orpo": (orpo.ORPOTrainer, orpo.ORPOConfig, knobs),
    }.get(method, (cpo.CPOTrainer, cpo.CPOConfig, knobs))
    pairs = [
        {"prompt": turn("user", row["prompt"]), **{side: turn("assistant", row[side]) for side in ("chosen", "rejected")}}
        for row in stored("tiny_pairs")
    ]
    return *found, Dataset.from_list(pairs)


@pytest.mark.parametrize("method", METHODS)
def test_the_losses_are_those_of_a_bare_trl_script(world, sft, method, tmp_path):
    """Fast path and TRL's own forward, both against TRL as its users call it: three steps, three losses."""
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    ours = {}
    for fast in ("true", "false"):
        knobs = [f"method.{name}={value}" for name, value in KNOBS[method].items()]
        _, folder = world.run(*COMMON, *EXACT, *knobs, f"method={method}", f"model.path={sft}", f"train.fast_path={fast}")
        ours[fast] = losses(folder)
        assert ("padded batches, because train.fast_path=false" in (folder / "run.log").read_text()) == (fast == "false")
    trainer_class, config, arguments, data = bare(method)
    torch.set_num_threads(1)
    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED / "tiny", dtype=torch.float32)
    model = PeftModel.from_pretrained(model, sft, autocast_adapter_dtype=False).merge_and_unload()
    set_seed(0)
    trainer = trainer_class(
        model=model,
        args=config(
            output_dir=str(tmp_path), max_steps=STEPS, per_device_train_batch_size=4, seed=0, data_seed=0, learning_rate=1e-3,
            lr_scheduler_type="constant", warmup_steps=0, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
            activation_checkpointing=False, disable_tqdm=True, dataloader_pin_memory=False, **arguments,
        ),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(EMBEDDED / "tiny"),
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(theirs) == STEPS and max(theirs) - min(theirs) > 100 * TOLERANCE, "nothing was learned, so nothing was compared"
    for fast, found in ours.items():
        assert found == pytest.approx(theirs, rel=TOLERANCE, abs=TOLERANCE), f"train.fast_path={fast}"


@pytest.mark.parametrize("method", METHODS)
def test_resume_ends_in_the_same_weights(world, sft, method, tmp_path):
    common = (*COMMON, f"method={method}", f"model.path={sft}", *BARE, "train.batch_size=4", "train.max_steps=4",
              "train.save_steps=2", "train.keep_checkpoints=2")  # fmt: skip
    whole, _ = world.run(*common, out_dir=tmp_path / "whole")
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole/checkpoints/checkpoint-2", stopped / "checkpoints/checkpoint-2")
    resumed, _ = world.run(*common, out_dir=stopped)
    assert "Going on from" in (stopped / "run.log").read_text()
    weights = [fingerprint.digest_file(Path(run.artifact) / "adapter_model.safetensors") for run in (whole, resumed)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("method", ["kto", "orpo"])
@pytest.mark.parametrize("adapter", ["full", "qlora"])
def test_other_adapters_train(world, sft, method, adapter):
    """kto's reference of full training is paid before the first step; the check at step 0 would stop the run at any other."""
    result, folder = world.run(
        *COMMON,
        f"method={method}",
        f"adapter={adapter}",
        f"model.path={sft}",
        "train.max_steps=2",
        "evaluate.limit=16",
        "evaluate.samples=0",
        DRAWN,
    )
    assert result.metrics["before"][result.score_name] == 0.5 != result.score
    assert method == "orpo" or "Reference check at step 0: reward margin" in (folder / "run.log").read_text()


def test_near_equal_batches_and_evaluation_while_training(world, sft):
    free = (*COMMON, "method=cpo", f"model.path={sft}", "train.max_steps=4", "evaluate.enabled=false", "train.eval_steps=2")
    _, folder = world.run(*free, "train.max_tokens=1024", "data.limit=64")
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    held_out = [line for line in logged if "eval_loss" in line]
    assert len(held_out) == 2 and held_out[1]["eval_loss"] < held_out[0]["eval_loss"] and "eval_rewards/margins" in held_out[0]


def test_label_metrics_by_hand():
    found = measure_labels([0.5, -0.1, 0.2, 0.0, -0.4], [True, True, False, False, False])
    assert found["label_accuracy"].mean() == pytest.approx((1 + 0 + 0 + 0.5 + 1) / 5)
    assert found["label_auc"].mean() == pytest.approx((3 + 1) / 6)
    assert found["label_margin"].mean() == pytest.approx((0.5 - 0.1) / 2 - (0.2 + 0.0 - 0.4) / 3)
    untrained = measure_labels([0.0] * 4, [True, False, False, False])
    assert [untrained[name].mean() for name in ("label_accuracy", "label_auc", "label_margin")] == [0.5, 0.5, 0.0]
    assert set(measure_labels([1.0], [True])) == {"label_accuracy"}


def loaded(path: Path, *words: str) -> rows.Splits:
    return rows.load_rows(compose(["stage=align", "method=kto", "data=unpaired", f"data.path={path}", "model=tiny", *words]).experiment)


def written(tmp_path: Path, labels: list) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"p{i}", "completion": "c", "label": label}) + "\n" for i, label in enumerate(labels)))
    return path


def test_labels_in_every_way_they_are_written(tmp_path):
    found = loaded(written(tmp_path, [True, False, 1, 0, "true", "False", "1", " 0 "]), "data.eval_fraction=null", "evaluate.enabled=false")
    assert [row["label"] for row in found.train] == [True, False] * 4


@pytest.mark.parametrize("label", ["good", 2, 0.5, 1.0, -1, "", [True]])
def test_another_label_is_refused_with_its_row(tmp_path, label):
    with pytest.raises(DataError, match=r"answers.jsonl:2: 'label' is .*, expected true or false"):
        loaded(written(tmp_path, [True, label, False]))


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (True, r"is desirable \(label=true\).*add undesirable rows, or type stage=sft data.columns.label=null"),
        (False, r"is undesirable \(label=false\).*add desirable rows"),
    ],
)
def test_rows_of_one_label_are_refused(tmp_path, label, said):
    with pytest.raises(DataError, match=said):
        loaded(written(tmp_path, [label] * 12))
    with pytest.raises(DataError, match="as far as data.limit=3 goes"):
        loaded(written(tmp_path, [label] * 3 + [not label] * 3), "data.limit=3")


def test_a_finished_run_is_measured_on_labels_again(world, sft):
    """stage=evaluate finds the reference and beta in the run, and measures what the run measured."""
    run, folder = world.run(
        *COMMON, "method=kto", f"model.path={sft}", "train.max_steps=4", "evaluate.limit=40", "evaluate.samples=0", DRAWN
    )
    again, _ = world.run("stage=evaluate", f"model.path={folder}", "data=tiny_unpaired", "evaluate.limit=40", "evaluate.samples=0", DRAWN)
    kept = ("label_auc", "label_accuracy", "label_margin", "perplexity")
    assert {name: again.metrics["after"][name] for name in kept} == pytest.approx(
        {name: run.metrics["after"][name] for name in kept}, rel=1e-4
    )
