"""What only a CUDA device can show: `pytest -m gpu -n 0`. Skips cleanly elsewhere."""

import itertools
import math
import signal
from pathlib import Path

import interrupted_runs
import pytest
import torch
from experiment_runner import World
from interrupted_runs import Case, words_of

from lexalign.config import hardware
from lexalign.config.compose import compose
from lexalign.training import memory

DEVICES = torch.cuda.device_count()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICES == 0, reason="no CUDA device")]
two_gpus = pytest.mark.skipif(DEVICES < 2, reason="fewer than two CUDA devices")
PAIRWISE = ("dpo", "ipo", "kto", "orpo", "cpo", "simpo", "gdpo", "gdpo_soft", "cdpo_soft", "gdpo_flow", "gdpo_rl", "grpo")
BASES = {"bf16": ("adapter=lora",), "nf4": ("adapter=qlora",), "int8": ("adapter=qlora", "adapter.bits=8"), "full": ("adapter=full",)}
FEW = ("hardware=cuda", "train.max_steps=3", "train.log_steps=1", "data.limit=32", "evaluate.limit=8", "evaluate.draws=0")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("gpu"))


def losses(out_dir) -> list[float]:
    """The losses a run logged."""
    import json

    lines = [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(("method", "base"), itertools.product(PAIRWISE, BASES))
def test_every_method_on_every_base(world, method, base):
    rows = (f"experiment=tiny/{method}", "train.batch_size=8") if method in ("gdpo_rl", "grpo") else ("stage=align", f"method={method}")
    result, out_dir = world.run(*rows, *BASES[base], *FEW, "model=tiny")
    assert result.status == "finished" and len(losses(out_dir)) == 3 and all(map(math.isfinite, losses(out_dir)))


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_sft(world, method):
    result, out_dir = world.run(f"method={method}", *FEW)
    assert result.status == "finished" and all(map(math.isfinite, losses(out_dir)))


@pytest.mark.parametrize("method", ["dpo", "gdpo"])
def test_shared_prompts_give_the_losses_of_padded_batches(world, method, caplog):
    """FlexAttention over rows that share their prompt, against the padded layout, in fp32."""
    caplog.set_level("INFO", logger="lexalign")
    exact = ("stage=align", f"method={method}", "model=tiny", "hardware=cuda", "hardware.precision=fp32", "model.dtype=float32",
             "train.max_steps=10", "train.log_steps=1", "evaluate=false", "train.learning_rate=1e-3")  # fmt: skip
    fast = losses(world.run(*exact)[1])
    assert "prompts shared" in caplog.text, "the trial of the packed layout failed on this device"
    padded = losses(world.run(*exact, "train.fast_path=false")[1])
    assert max(abs(one - other) for one, other in zip(fast, padded, strict=True)) < 1e-4


@pytest.mark.parametrize("method", ["sft", "dpo", "gdpo"])
def test_a_killed_run_ends_in_the_same_bits(tmp_path, method):
    interrupted_runs.warm_up()
    words = tuple(word for word in words_of(method, "step") if not word.startswith("hardware"))
    words = (*words, "hardware=cuda", "deterministic=strict")
    whole = Case(tmp_path, tmp_path / "whole", words).whole()
    run = Case(tmp_path, tmp_path / "run", words)
    assert run.met(run.training(), signal.SIGKILL) == -signal.SIGKILL
    assert run.whole().weights() == whole.weights() and run.course() == whole.course()


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_estimate_is_near_the_peak(world, adapter, monkeypatch):
    """On a model large enough that what CUDA itself takes does not count."""
    seen: list[tuple[float, float]] = []
    estimated = memory.estimate_memory

    def noted(*args, **kwargs):
        seen.append((estimated(*args, **kwargs), 0.0))
        return seen[-1][0]

    monkeypatch.setattr(memory, "estimate_memory", noted)
    folder = wide(world)
    torch.cuda.reset_peak_memory_stats()
    world.run("method=full" if adapter == "full" else "method=lora", f"model.path={folder}", *FEW, "evaluate=false", "train.batch_size=32")
    peak = torch.cuda.max_memory_allocated()
    assert abs(seen[-1][0] - peak) < 0.15 * peak


def wide(world: World):
    """A model of some hundred million parameters with the embedded tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = world.folder / "wide"
    if not folder.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parent.parent / "lexalign/embedded/tiny")
        config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=1024, intermediate_size=4096, num_hidden_layers=12,
                             num_attention_heads=16, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@two_gpus
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed"])
@pytest.mark.parametrize("method", ["sft", "dpo", "gdpo"])
def test_several_gpus(tmp_path, strategy, method):
    """NCCL; the losses of one GPU, to what bf16-free arithmetic leaves."""
    if strategy == "deepspeed":
        pytest.importorskip("deepspeed")
    interrupted_runs.warm_up()
    words = tuple(word for word in words_of(method, "step") if not word.startswith("hardware"))
    exact = (*words, "hardware.precision=fp32", "model.dtype=float32")
    one = Case(tmp_path / "a", tmp_path / "one", (*exact, "hardware=cuda")).whole()
    many = Case(tmp_path / "b", tmp_path / "many", (*exact, f"hardware={strategy}", "hardware.processes=2")).whole()
    assert max(abs(a - b) for a, b in zip(losses(one.out_dir), losses(many.out_dir), strict=True)) < 1e-4


@two_gpus
def test_qlora_on_several_gpus(tmp_path):
    interrupted_runs.warm_up()
    words = tuple(word for word in words_of("dpo", "step") if not word.startswith("hardware"))
    Case(tmp_path, tmp_path / "run", (*words, "adapter=qlora", "hardware=ddp", "hardware.processes=2")).whole()


def test_auto_takes_what_there_is():
    assert hardware.resolve_device("auto") == "cuda" and hardware.get_cuda_memory() > 1e9
    assert compose(["hardware=auto"]).experiment.hardware.strategy == "auto"
