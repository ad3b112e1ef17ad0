"""What composition costs: the same sft and dpo through run.py, its fast path off, and through a bare TRL script, side by side.

Each arm is a fresh process, arms interleaved (A B B A ...). Both note the time of every optimizer step; the figures are medians over the
repeats of: CPU seconds a step (median over the steps of a run, the first left out), and seconds from process start to the end of the first
step. Both arms train the same model on the same rows with the same seed, so their losses must agree; if not, no ratio is printed.

    python bench/overhead.py [--repeats 5] [--steps 45] [--threads 2]
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOSS_TOLERANCE = 1e-5
BATCH, LEARNING_RATE, BETA = 8, 5e-4, 0.1


def bare(kind: str, steps: int, threads: int, out: Path) -> None:
    """The script a TRL user would write for this run."""
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed

    torch.set_num_threads(threads)
    model_dir = ROOT / "lexalign" / "embedded" / "tiny"
    name = "tiny_sft" if kind == "sft" else "tiny_pairs"
    rows = [json.loads(line) for line in (ROOT / "lexalign/embedded/data" / name / "train.jsonl").read_text().splitlines()]

    def turns(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    columns = ("completion",) if kind == "sft" else ("chosen", "rejected")
    data = Dataset.from_list(
        [{"prompt": turns("user", row["prompt"]), **{name: turns("assistant", row[name]) for name in columns}} for row in rows]
    )
    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    extra = {"precompute_ref_log_probs": True, "beta": BETA} if kind == "dpo" else {}
    config = (trl.SFTConfig if kind == "sft" else trl.DPOConfig)(
        output_dir=str(out.parent / "bare"), max_steps=steps, per_device_train_batch_size=BATCH, seed=0, data_seed=0,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant", warmup_steps=0, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
        activation_checkpointing=False, disable_tqdm=True, dataloader_pin_memory=False, **extra,
    )  # fmt: skip
    clock = step_clock(TrainerCallback)
    trainer = (trl.SFTTrainer if kind == "sft" else trl.DPOTrainer)(
        model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[clock],
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    out.write_text(json.dumps({"steps": clock.times, "cpu": clock.cpu, "losses": clock.losses}))


def step_clock(base: type):
    """A callback that notes when each step ends, in seconds since the process was started and in its CPU seconds, and its loss."""

    class Clock(base):
        def __init__(self) -> None:
            self.times: list[float] = []
            self.cpu: list[float] = []
            self.losses: list[float] = []

        def on_step_end(self, args, state, control, **kwargs) -> None:
            self.times.append(time.time() - float(os.environ["BENCH_STARTED"]))
            self.cpu.append(time.process_time())

        def on_log(self, args, state, control, logs=None, **kwargs) -> None:
            if "loss" in (logs or {}):
                self.losses.append(float(logs["loss"]))

    return Clock()


def composed(kind: str, steps: int, threads: int, out: Path) -> None:
    """run.py as a user starts it, with the clock added to the trainer's callbacks."""
    sys.path.insert(0, str(ROOT))
    import lexalign.training.callbacks as callbacks

    clock_of = step_clock(callbacks.TrainerCallback)
    watch = callbacks.ProgressCallback

    class Timed(watch):
        def on_step_end(self, *args, **kwargs) -> None:
            super().on_step_end(*args, **kwargs)
            clock_of.on_step_end(*args, **kwargs)

        def on_log(self, args, state, control, logs=None, **kwargs) -> None:
            super().on_log(args, state, control, logs=logs, **kwargs)
            clock_of.on_log(args, state, control, logs=logs)

    callbacks.ProgressCallback = Timed
    stage = ["stage=sft", "method=lora"] if kind == "sft" else ["stage=align", "method=dpo", "model=tiny", f"method.beta={BETA}"]
    sys.argv = ["run.py", *stage, "tracking=none", "evaluate.enabled=false", f"output_dir={out.parent}/ours", f"train.max_steps={steps}",
                f"train.batch_size={BATCH}", f"train.learning_rate={LEARNING_RATE}", "train.scheduler=constant", "train.warmup_steps=0",
                "train.log_steps=1", "train.save_steps=100000",
                "train.fast_path=false", f"hardware.threads={threads}", "hardware=cpu"]  # fmt: skip
    import runpy

    runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    out.write_text(json.dumps({"steps": clock_of.times, "cpu": clock_of.cpu, "losses": clock_of.losses}))


def measure(arm: str, kind: str, args: argparse.Namespace) -> dict:
    """One run of one arm in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        command = [
            sys.executable,
            __file__,
            "--arm",
            arm,
            "--kind",
            kind,
            "--steps",
            str(args.steps),
            "--threads",
            str(args.threads),
            "--out",
            str(out),
        ]
        env = {**os.environ, "BENCH_STARTED": str(time.time()), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(args.threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
        if not out.is_file():
            sys.exit(f"the {arm} arm of {kind} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return json.loads(out.read_text())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=45, help="an epoch of tiny_pairs at least, so that both arms pay the reference before")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--arm", choices=["ours", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=["sft", "dpo"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        return {"ours": composed, "bare": bare}[args.arm](args.kind, args.steps, args.threads, args.out)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft"))
    print(f"{platform.machine()}, {args.threads} threads, Python {platform.python_version()}, {versions}")
    print("run | CPU s a step: ours, bare TRL, ratio | s to the first step: ours, bare TRL, ratio | losses differ by")
    for kind in ("sft", "dpo"):
        compare(kind, args)


def compare(kind: str, args: argparse.Namespace) -> None:
    """Run both arms of one kind of training in turn and print their row."""
    runs: dict[str, list[dict]] = {"ours": [], "bare": []}
    for repeat in range(args.repeats):
        for arm in ("ours", "bare") if repeat % 2 == 0 else ("bare", "ours"):
            runs[arm].append(measure(arm, kind, args))
    pairs = [(a, b) for ours, bare in zip(*runs.values(), strict=True) for a, b in zip(ours["losses"], bare["losses"], strict=False)]
    apart = max(abs(a - b) for a, b in pairs)
    if apart > LOSS_TOLERANCE:
        sys.exit(f"{kind}: the two arms did not train alike (losses differ by {apart:.2e}), so their times say nothing")
    step, first = {}, {}
    for arm, results in runs.items():
        step[arm] = statistics.median(statistics.median(b - a for a, b in itertools.pairwise(run["cpu"])) for run in results)
        first[arm] = statistics.median(run["steps"][0] for run in results)
    print(
        f"{kind} | {step['ours']:.4f}, {step['bare']:.4f}, {step['ours'] / step['bare']:.3f} | "
        f"{first['ours']:.2f}, {first['bare']:.2f}, {first['ours'] / first['bare']:.3f} | {apart:.1e}",
        flush=True,
    )


if __name__ == "__main__":
    main()
