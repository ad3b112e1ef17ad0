"""Runs and what binds them: parents, content keys, artifacts, resuming, the reference check."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from experiment_runner import ROOT, World, result_of

from lexalign.artifacts import fingerprint
from lexalign.artifacts.manifest import read_manifest
from lexalign.config import paths
from lexalign.config.compose import compose
from lexalign.config.schema import DpoMethod
from lexalign.errors import ConfigError, ReferenceError
from lexalign.models import loading

SHORT = ("train.max_steps=3", "evaluate.limit=4", "hardware.threads=1", "data.limit=48", "train.max_length=128")
ONE_STEP = ("train.max_steps=1", "evaluate.enabled=false", "hardware.threads=1", "data.limit=16", "train.max_length=128")
PARENT = "model.parent_overrides=['train.max_steps=2','evaluate.limit=2']"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def sft(world):
    return world.run(*SHORT)


@pytest.fixture(scope="module")
def aligned(world, sft):
    """dpo from the sft run's folder."""
    return world.run("stage=align", "model=tiny", f"model.path={sft[1]}", *SHORT)


def logits(artifact: str | Path, text: str = "Where does Pelor live?") -> torch.Tensor:
    """The logits of a model loaded from an artifact as any run would load it."""
    loaded = loading.load_model(compose(["stage=align", "model=tiny", f"model.path={artifact}"]).experiment)
    with torch.no_grad():
        return loaded.model(torch.tensor([loaded.tokenizer(text)["input_ids"]])).logits


def test_an_adapter_on_an_adapter_is_one_adapter_on_the_base(aligned, sft):
    """The align artifact holds sft and align together: it needs nothing of the sft run."""
    manifest = read_manifest(Path(aligned[0].artifact))
    assert manifest["kind"] == "adapter" and manifest["base"]["path"] == "embedded:tiny"
    config = json.loads((Path(aligned[0].artifact) / "adapter_config.json").read_text())
    assert config["r"] == 32
    changed = (logits(aligned[0].artifact) - logits(sft[0].artifact)).abs().max()
    assert changed > 0


def test_artifact_is_the_measured_model(world, sft):
    """Measuring the artifact again, as the start of another run, gives the numbers the run ended with."""
    again, _ = world.run("model=tiny", f"model.path={sft[1]}", *SHORT)
    assert again.metrics["before"]["loss"] == pytest.approx(sft[0].metrics["after"]["loss"], rel=1e-5)


def test_damaged_artifact_is_not_loaded(world, sft, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(sft[1], copy)
    weights = copy / "artifact" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ConfigError, match="sha256 differs"):
        world.run("stage=align", "model=tiny", f"model.path={copy}", *SHORT)


def test_adapter_is_not_put_on_another_base(world, sft, tmp_path, monkeypatch):
    other = tmp_path / "embedded" / "tiny"
    shutil.copytree(paths.EMBEDDED / "tiny", other)
    shutil.copytree(paths.EMBEDDED / "data", other.parent / "data")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    monkeypatch.setattr(paths, "EMBEDDED", other.parent)
    with pytest.raises(ConfigError, match="is not the model it was trained on"):
        logits(sft[1])


def test_parent_runs_once_for_all_children(world):
    children = [world.run("stage=align", f"method.beta={beta}", PARENT, *SHORT) for beta in (0.1, 0.5)]
    parents = {child[0].parent for child in children}
    assert len(parents) == 1 and result_of(Path(parents.pop()))["stage"] == "sft"
    assert "running first" in (children[0][1] / "run.log").read_text()
    assert "reusing" in (children[1][1] / "run.log").read_text()
    assert children[0][0].key != children[1][0].key


def test_a_parent_trained_by_hand_is_reused_and_a_damaged_one_is_not(world, tmp_path):
    mine = World(tmp_path)
    overrides = ("train.max_steps=2", "evaluate.limit=2")
    _, folder = mine.run("experiment=tiny/sft", *overrides)
    child, _ = mine.run("stage=align", PARENT, *SHORT)
    assert child.parent == str(folder)
    (folder / "artifact" / "tokenizer.json").unlink()
    other, out = mine.run("stage=align", PARENT, *SHORT, "method.beta=0.2")
    assert other.parent != str(folder)
    assert "cannot be reused" in (out / "run.log").read_text()


def test_content_key_follows_content_not_places(tmp_path):
    def key(*overrides: str) -> str:
        return fingerprint.make_content_key(compose(list(overrides)).experiment, parent=None)

    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    base = ("data=instructions", f"data.path={here / 'rows.jsonl'}")
    same = [
        base,
        (*base, "output_dir=elsewhere"),
        (*base, "tracking=none"),
        (*base, "train.log_steps=1"),
        ("data=instructions", f"data.path={there / 'rows.jsonl'}"),
    ]
    assert len({key(*overrides) for overrides in same}) == 1
    (there / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "e"}\n')
    other = [
        base,
        (*base, "seed=1"),
        (*base, "train.learning_rate=1e-3"),
        (*base, "adapter.rank=4"),
        (*base, "method=full"),
        ("data=instructions", f"data.path={there / 'rows.jsonl'}"),
    ]
    assert len({key(*overrides) for overrides in other}) == len(other)


def test_wrong_reference_stops_the_run_at_step_0(tmp_path, sft, monkeypatch):
    """The mistake the check is for: log-ratios measured from the base although the run starts from the sft model."""
    from lexalign.training.reference import Reference

    measured = Reference.compute

    def from_the_wrong_model(self, batch):
        found = measured(self, batch)
        return [(total + (at < len(found) // 2), count) for at, (total, count) in enumerate(found)]

    monkeypatch.setattr(Reference, "compute", from_the_wrong_model)
    with pytest.raises(ReferenceError, match="step 0: the reward margin is"):
        # A store of its own: the one of the other tests knows the right numbers already.
        World(tmp_path).run("stage=align", "model=tiny", f"model.path={sft[1]}", *SHORT)


def test_reference_of_full_training_is_the_merged_sft_model(world, sft):
    """TRL alone would load a full model's reference from the base's path, without the sft adapter."""
    for precompute in ("true", "false"):
        result, folder = world.run(
            "stage=align", "model=tiny", f"model.path={sft[1]}", "adapter=full", f"method.precompute_reference={precompute}", *SHORT
        )
        # The step-0 check passed against the merged model, and the run learned from there.
        assert result.metrics["before"]["reward_accuracy"] == 0.5 and result.metrics["after"]["reward_margin"] != 0
        assert "Reference check at step 0: reward margin" in (folder / "run.log").read_text()


def test_resume_ends_in_the_same_weights(world, tmp_path):
    """Three steps and a stop, then three more, against six in a row."""
    common = ("evaluate.enabled=false", "hardware.threads=1", "train.save_steps=3", "train.keep_checkpoints=2")
    whole, _ = world.run(*common, "train.max_steps=6", out_dir=tmp_path / "whole")
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "checkpoint-3", stopped / "checkpoints" / "checkpoint-3")
    resumed, _ = world.run(*common, "train.max_steps=6", out_dir=stopped)
    assert "Going on from" in (stopped / "run.log").read_text()
    assert fingerprint.digest_file(Path(resumed.artifact) / "adapter_model.safetensors") == fingerprint.digest_file(
        Path(whole.artifact) / "adapter_model.safetensors"
    )
    by_path, _ = world.run(*common, "train.max_steps=6", f"resume={tmp_path / 'whole' / 'checkpoints' / 'checkpoint-3'}")
    assert fingerprint.digest_file(Path(by_path.artifact) / "adapter_model.safetensors") == fingerprint.digest_file(
        Path(whole.artifact) / "adapter_model.safetensors"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=full",),
        ("method=qlora",),
        ("method=qlora", "adapter.bits=8"),
        ("adapter.target_modules=[q_proj,v_proj]", "adapter.rank=4"),
        ("train.packing=true",),
        ("train.optimizer=adamw_8bit",),
        ("hardware.precision=bf16",),
        ("train.gradient_checkpointing=true",),
        ("stage=align", "model=tiny", "method=gdpo", "adapter=full"),
        ("stage=align", "model=tiny", "method=gdpo", "adapter=qlora"),
        ("stage=align", "model=tiny", "method=dpo", "adapter=qlora", "adapter.bits=8"),
        ("stage=align", "model=tiny", "method=dpo", "data=tiny_beliefs"),
    ],
    ids=" ".join,
)
def test_every_adapter_trains(world, overrides):
    result, folder = world.run(*overrides, *SHORT)
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert result.status == "finished" and losses
    assert logits(result.artifact).isfinite().all()


def test_a_4_bit_base_keeps_its_weights_on_every_processor(monkeypatch):
    """Where there are bfloat16 instructions, bitsandbytes packs them anew, coarser, at the first evaluation; no gradient passes those."""
    import torch
    from bitsandbytes.nn import Linear4bit

    from lexalign.config.compose import compose
    from lexalign.models import loading

    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model = loading.load_model(compose(["method=qlora"]).experiment).model.eval()
    with torch.no_grad():
        model(torch.arange(8)[None])
    quantized = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert quantized and not any(getattr(module.weight.quant_state, "packing_format_for_cpu", False) for module in quantized)


def test_dropout_does_not_move_the_reference_check(world):
    """The step that preflight tries drops out, here in an adapter that is no longer zero; the check looks again without."""
    _, run = world.run("method=qlora", "adapter.dropout=0.5", "train.learning_rate=1e-2", *SHORT)
    result, folder = world.run("stage=align", "model=tiny", f"model.path={run}", "adapter=qlora", "adapter.dropout=0.5", *ONE_STEP)
    assert result.status == "finished" and "Reference check at step 0: reward margin 0.00e+00" in (folder / "run.log").read_text()


def test_qlora_align_trains_the_sft_adapter_on(world, sft):
    """A quantized base keeps the sft adapter as it is: the reference is its copy, and another shape is refused."""
    common = ("stage=align", "model=tiny", f"model.path={sft[1]}", "adapter=qlora", *SHORT)
    result, _ = world.run(*common)
    assert result.metrics["before"]["reward_accuracy"] == 0.5
    with pytest.raises(ConfigError, match="adapter.rank=16"):
        world.run(*common, "adapter.rank=4")
    for ignored in ("adapter.dropout=0.1", "adapter.target_modules=[q_proj]"):
        with pytest.raises(ConfigError, match=ignored.split("=")[0]):
            world.run(*common, ignored)


@pytest.mark.parametrize("loss_type", get_args(get_type_hints(DpoMethod)["loss_type"]))
def test_every_dpo_loss_trains(world, sft, loss_type):
    smoothing = ("method.label_smoothing=0.001",) if loss_type == "exo_pair" else ()
    result, _ = world.run("stage=align", "model=tiny", f"model.path={sft[1]}", f"method.loss_type={loss_type}", *smoothing, *ONE_STEP)
    assert result.status == "finished"


def test_label_smoothing_is_read_by_the_losses_that_say_so(world, sft, monkeypatch):
    """Of all losses of dpo, exactly these change with it."""
    import torch

    from lexalign.config.rules.methods import LABEL_SMOOTHING_READERS
    from lexalign.stages import train

    kept = []
    monkeypatch.setattr(train, "check_reference", lambda trainer, *_: kept.append(trainer))
    world.run("stage=align", "model=tiny", f"model.path={sft[1]}", *ONE_STEP)
    (trainer,) = kept
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    batch = trainer.make_batch(trainer.train_dataset, list(range(4)))

    def loss(loss_type, smoothing):
        trainer.objective.method = dataclasses.replace(trainer.objective.method, loss_type=loss_type, label_smoothing=smoothing)
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, batch))

    found = {name for name in get_args(get_type_hints(DpoMethod)["loss_type"]) if loss(name, 0.1) != loss(name, 0.3)}
    assert found == set(LABEL_SMOOTHING_READERS)


def test_a_tracked_run_follows_an_untracked_one(world, tmp_path):
    """Libraries imported while wandb was hidden from them must not miss it once it is there."""
    script = tmp_path / "both.py"
    script.write_text(
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\nfrom experiment_runner import World\n"
        f"world = World(Path({str(tmp_path)!r}))\n"
        f"short = {SHORT!r}\n"
        "world.run('stage=align', 'model=tiny', *short)\n"
        "assert 'wandb' not in sys.modules, 'tracking=none imported wandb'\n"
        "world.run('stage=align', 'model=tiny', 'tracking=wandb', 'tracking.mode=offline', *short, tracked=True)\n"
        "assert 'wandb' in sys.modules\n"
    )
    command = [sys.executable, str(script), str(ROOT), str(ROOT / "tests")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path), "WANDB_MODE": "offline"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.glob("run-*/wandb/offline-run-*"))


def test_dry_run_plans_and_trains_nothing(world, capsys):
    result, folder = world.run("stage=align", "method=gdpo", "dry_run=true", "model.parent_overrides=['train.max_steps=7']")
    assert result.status == "planned" and result.counts["trainable_parameters"] > 0 and result.counts["steps"] > 0
    assert not (folder / "artifact").exists() and not (folder / "checkpoints").exists()
    printed = capsys.readouterr().out
    for word in ("model", "trained", "rows to train on", "tokens", "steps", "memory"):
        assert word in printed
    assert "would run first" in (folder / "run.log").read_text()
    planned = result.counts["trainable_parameters"]
    assert planned == world.run("stage=align", "method=gdpo", "model=tiny", *SHORT)[0].counts["trainable_parameters"]


def test_mixed_precision_measures_tries_and_trains_in_one_arithmetic(tmp_path):
    """Weights in float32, products in bfloat16: a run that as good as does not train measures the same before and after, to the bit, and
    the step that is tried finds policy and reference equal, to the bit."""
    result, folder = World(tmp_path).run(
        "stage=align", "model=tiny", "data=tiny_pairs", "hardware.precision=bf16", "model.dtype=float32", "train.learning_rate=1e-12",
        "train.max_steps=2", "evaluate.limit=8", "evaluate.samples=0", "hardware.threads=1",
    )  # fmt: skip
    log = (folder / "run.log").read_text()
    assert "reward margin 0.00e+00" in log and "idle ones up to a multiple of 64" in log
    same = ("loss", "perplexity", "reward_accuracy")
    before, after = result.metrics["before"], result.metrics["after"]
    assert {name: before[name] for name in same if name in before} == {name: after[name] for name in same if name in after}
    assert "perplexity" in before
