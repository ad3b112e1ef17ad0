"""Whole runs with the fast path and with padded batches, on the same rows: the same losses, step by step."""

import json

import pytest
from experiment_runner import World

STEPS = 20
COMMON = (f"train.max_steps={STEPS}", "train.log_steps=1", "evaluate.enabled=false", "train.batch_size=4", "hardware.threads=1")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("fast"))


@pytest.fixture(scope="module")
def sft(world):
    """A model that answers, so that rewards have something to move."""
    return world.run("stage=sft", "train.max_steps=30", "evaluate.enabled=false", "hardware.threads=1")[1] / "artifact"


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line], [line["grad_norm"] for line in lines if "grad_norm" in line]


def both(world, *overrides):
    """Folders of the run with the fast path and of the one without."""
    return [world.run(*overrides, *COMMON, f"train.fast_path={fast}")[1] for fast in ("true", "false")]


def assert_alike(fast, plain, *, tolerance=TOLERANCE):
    (ours, our_norms), (theirs, their_norms) = losses(fast), losses(plain)
    assert len(ours) == len(theirs) == STEPS
    assert max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(ours, theirs, strict=True)) <= tolerance
    assert their_norms[0] > 0 and our_norms[0] == pytest.approx(their_norms[0], rel=1e-4)
    assert max(theirs) - min(theirs) > 100 * tolerance, "nothing was learned, so nothing was compared"


DPO = ("stage=align", "model=tiny", "train.learning_rate=1e-3")


@pytest.mark.parametrize("extra", [(), ("method.precompute_reference=false",), ("adapter=full",), ("method.loss_type=ipo",)])
def test_dpo(world, sft, extra):
    fast, plain = both(world, *DPO, f"model.path={sft}", *extra)
    assert_alike(fast, plain)
    assert "Fast path: each token computed once, prompts shared" in (fast / "run.log").read_text()
    assert "Fast path: padded batches, because train.fast_path=false" in (plain / "run.log").read_text()


def test_a_soft_label_of_one_trains_as_dpo(world, sft, tmp_path):
    """The same batches, the same losses: the soft trainers are DPO where every label is certain."""
    import shutil

    from lexalign.config.paths import EMBEDDED

    shutil.copytree(EMBEDDED / "data/tiny_soft", tmp_path / "certain")
    for file in (tmp_path / "certain").iterdir():
        rows = [{**json.loads(line), "soft_label": 1.0} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = (*DPO, "data=tiny_soft", f"data.path={tmp_path / 'certain'}", f"model.path={sft}", *COMMON)
    plain = losses(world.run(*common, "method=dpo")[1])[0]
    for method in ("gdpo_soft", "cdpo_soft"):
        soft = losses(world.run(*common, f"method={method}")[1])[0]
        assert soft == pytest.approx(plain, abs=1e-6)


def test_gdpo(world, sft):
    fast, padded = both(world, *DPO, "method=gdpo", f"model.path={sft}")
    assert_alike(fast, padded)
    assert "Fast path: padded batches, because train.fast_path=false" in (padded / "run.log").read_text()


@pytest.mark.parametrize(
    "extra", [(), ("train.packing=true", "train.max_length=128"), ("method.loss_on=all",), ("train.gradient_accumulation_steps=2",)]
)
def test_sft(world, extra):
    fast, plain = both(world, "stage=sft", *extra)
    assert_alike(fast, plain)
    assert "Fast path: no padding; 28 LoRA layers fused" in (fast / "run.log").read_text()


def test_the_batches_are_those_of_a_bare_trl_script(world, sft, tmp_path):
    """TRL as its users call it, with nothing of ours but the rows."""
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from lexalign.config.paths import EMBEDDED

    _, folder = world.run(*DPO, f"model.path={sft}", *COMMON, "train.scheduler=constant", "train.warmup_steps=0")

    def turn(role, text):
        return [{"role": role, "content": text}]

    rows = [json.loads(line) for line in (EMBEDDED / "data/tiny_pairs/train.jsonl").read_text().splitlines()]
    data = Dataset.from_list(
        [{"prompt": turn("user", row["prompt"]), **{side: turn("assistant", row[side]) for side in ("chosen", "rejected")}} for row in rows]
    )
    torch.set_num_threads(1)
    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED / "tiny", dtype=torch.float32)
    model = PeftModel.from_pretrained(model, sft, autocast_adapter_dtype=False).merge_and_unload()
    set_seed(0)
    trainer = trl.DPOTrainer(
        model=model,
        args=trl.DPOConfig(
            output_dir=str(tmp_path), max_steps=STEPS, per_device_train_batch_size=4, seed=0, data_seed=0, learning_rate=1e-3,
            lr_scheduler_type="constant", warmup_steps=0, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
            activation_checkpointing=False, disable_tqdm=True, dataloader_pin_memory=False, beta=0.1,
        ),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(EMBEDDED / "tiny"),
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    ours, _ = losses(folder)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= TOLERANCE


def test_dropout_falls_back_with_the_reason_and_is_not_switched_off(world, sft):
    """TRL's preference trainers set every dropout to zero, the adapter's too."""
    plain = world.run(*DPO, f"model.path={sft}", *COMMON)[1]
    dropped = world.run(*DPO, f"model.path={sft}", *COMMON, "adapter.dropout=0.3")[1]
    assert "padded batches, because it is trained with dropout" in (dropped / "run.log").read_text()
    assert "0 LoRA layers fused" in (dropped / "run.log").read_text()
    ours, without = losses(dropped)[0], losses(plain)[0]
    assert max(abs(a - b) for a, b in zip(ours, without, strict=True)) > 1e-3


@pytest.mark.parametrize("method", ["stage=sft", "stage=align", "stage=align method=gdpo"])
@pytest.mark.parametrize("batches", ["train.group_by_length=true", "train.max_tokens=1024"])
def test_near_equal_batches_train(world, sft, method, batches):
    where = [] if method == "stage=sft" else ["model=tiny", f"model.path={sft}"]
    common = [setting for setting in COMMON if "max_tokens" not in batches or "batch_size" not in setting]
    result, folder = world.run(*method.split(), *where, *common, batches)
    assert result.counts["steps"] == STEPS and len(losses(folder)[0]) == STEPS
