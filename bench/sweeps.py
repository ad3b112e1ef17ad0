"""What a sweep costs: points over one parent, against as many calls of run.py and of `trl dpo`; and what pruning saves on a grid whose best
point is known.

    python bench/sweeps.py [--out table.md] [--only shared pruning]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lexalign.config.paths import find_data
from lexalign.sweeps.ledger import Job, Ledger

ROOT = Path(__file__).resolve().parent.parent
RUN = [sys.executable, str(ROOT / "run.py")]
ALIGN = (
    "stage=align", "method=dpo", "tracking=none", "train.max_steps=12", "data.limit=96", "evaluate.limit=16", "evaluate.samples=0",
    "train.max_length=192",
)  # fmt: skip
BETAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SEARCH = (
    "stage=sft", "tracking=none", "train.max_steps=27", "train.eval_steps=3", "evaluate.limit=32", "evaluate.samples=0", "preflight=skip",
    "evaluate.max_new_tokens=2", "train.max_length=96", "data.limit=64", "sweep.objectives=[loss]",
)  # fmt: skip
AXES = ("train.learning_rate=1e-4,1e-3,1e-2", "adapter.target_modules=[q_proj],[v_proj],auto", "adapter.dropout=0.0,0.5,0.9")
SEEDS = (0, 1, 2)


def call(command: list[str], folder: Path, threads: int | None = None) -> float:
    """Wall seconds of a command that must succeed."""
    began = time.monotonic()
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return time.monotonic() - began


def tell(line: str) -> None:
    """Something measured, as soon as it is: what follows may take long."""
    print(f"{line} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)


def jobs(folder: Path) -> list[Job]:
    """Every job of a sweep, parents included."""
    with Ledger(folder) as ledger:
        return ledger.read_jobs()


def shared(scratch: Path) -> list[str]:
    """Eight align points over one sft: the sft trained once, the reference computed once."""
    together, alone, trl = scratch / "together", scratch / "alone", scratch / "trl"
    for folder in (together, alone, trl):
        folder.mkdir()
    betas = ",".join(map(str, BETAS))
    sweep = call([*RUN, "-m", *ALIGN, f"method.beta={betas}", "output_dir=sweep"], together)
    again = call([*RUN, "-m", *ALIGN, f"method.beta={betas}", "output_dir=sweep"], together)
    parents = [job for job in jobs(together / "sweep") if job.number is None]
    computed = sum(
        int(line.split("Reference log-probabilities: ")[1].split()[0])
        for log in (together / "sweep").glob("*/run.log")
        for line in log.read_text().splitlines()
        if "responses computed" in line
    )
    tell(f"one sweep: {sweep:.0f} s, the same line again {again:.1f} s")
    calls = 0.0
    for number, beta in enumerate(BETAS):  # a new store for each: what a user without one pays
        calls += call([*RUN, *ALIGN, f"method.beta={beta}", f"output_dir=run-{number}", f"store=store-{number}"], alone)
    tell(f"eight calls, a store each: {calls:.0f} s")
    kept = call([*RUN, *ALIGN, f"method.beta={BETAS[0]}", "output_dir=kept-0", "store=store"], alone)
    kept += sum(
        call([*RUN, *ALIGN, f"method.beta={beta}", f"output_dir=kept-{number}", "store=store"], alone)
        for number, beta in enumerate(BETAS[1:], 1)
    )
    tell(f"eight calls, one store: {kept:.0f} s")
    theirs = with_trl(trl, Path(parents[0].folder) / "artifact")
    return [
        "| eight align points over one sft | wall s | sft trained | responses the reference computed |",
        "|---|---|---|---|",
        f"| `python run.py -m`, one sweep | {sweep:.0f} | {len(parents)} | {computed} |",
        f"| the same line again | {again:.1f} | 0 | 0 |",
        f"| eight calls of `python run.py`, one store | {kept:.0f} ({kept / sweep:.1f}x) | 1 | |",
        f"| eight calls of `python run.py`, a store each | {calls:.0f} ({calls / sweep:.1f}x) | 8 | |",
        f"| eight calls of `trl dpo` from a trained sft (no evaluation) | {theirs:.0f} ({theirs / sweep:.1f}x) | 0 | all, each |",
    ]


def with_trl(folder: Path, sft: Path) -> float:
    """Wall seconds of eight calls of TRL's command line on the same rows, from the merged sft model; merging is not counted."""
    merge(sft, folder / "model")
    data_folder = find_data("embedded:tiny_pairs").path
    assert data_folder is not None
    rows = (data_folder / "train.jsonl").read_text().splitlines(keepends=True)[:96]
    (folder / "rows").mkdir()
    (folder / "rows/train.jsonl").write_text("".join(rows))
    common = [
        "--model_name_or_path", str(folder / "model"), "--dataset_name", str(folder / "rows"), "--max_steps", "12", "--use_peft",
        "--lora_target_modules", "all-linear", "--lora_r", "16", "--lora_alpha", "32", "--per_device_train_batch_size", "8",
        "--report_to", "none", "--save_strategy", "no", "--max_length", "192", "--bf16", "false", "--use_cpu", "true",
    ]  # fmt: skip
    trl = str(Path(sys.executable).with_name("trl"))
    return sum(call([trl, "dpo", *common, "--beta", str(beta), "--output_dir", f"out-{beta}"], folder) for beta in BETAS)


def merge(adapter: Path, folder: Path) -> None:
    """The sft model as one model."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    AutoPeftModelForCausalLM.from_pretrained(adapter).merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(folder)


def pruning(scratch: Path) -> list[str]:
    """A grid of 27 points run whole, whose best point is then known, and by how much; and searched with successive halving, three seeds."""
    lines = ["| 27 points, seed | best of the grid | next | found by halving | steps, grid | steps, halving |", "|---|---|---|---|---|---|"]
    shares, missed = [], 0
    for seed in SEEDS:
        folder = scratch / f"seed-{seed}"
        folder.mkdir()
        common = [*SEARCH, f"seed={seed}", *AXES]
        call([*RUN, "-m", *common, "output_dir=grid"], folder)
        call([*RUN, "-m", *common, "output_dir=halving", "sweep.pruner=halving", "store=other"], folder)
        whole, pruned = jobs(folder / "grid"), jobs(folder / "halving")
        (best, second, *_), (winner, *_) = (sorted((j for j in every if j.state == "finished"), key=loss) for every in (whole, pruned))
        cost = [sum(steps(job) for job in every) for every in (whole, pruned)]
        shares.append(cost[1] / cost[0])
        missed += best.values != winner.values
        points = f"{named(best)}: {loss(best):.4f} | {loss(second):.4f} | {named(winner)}: {loss(winner):.4f}"
        lines.append(f"| {seed} | {points} | {cost[0]} | {cost[1]} ({shares[-1]:.0%}) |")
    lines.append(f"\nSteps: {statistics.mean(shares):.0%} of the grid's; the best point was missed {missed} times.")
    if missed or max(shares) > 0.4:
        lines.append("FAILED: the best point is to be found at 40 % of the grid's steps or fewer.")
    return lines


def loss(job: Job) -> float:
    return job.metrics["loss"]


def steps(job: Job) -> int:
    """Optimizer steps a job did."""
    log_lines = [json.loads(line) for line in (Path(job.folder) / "metrics.jsonl").read_text().splitlines()]
    return max(line["step"] for line in log_lines)


def named(job: Job) -> str:
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in job.values.items())


def main() -> None:
    """Measure, print, write the table; exits with 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the tables")
    parser.add_argument("--only", nargs="*", default=["shared", "pruning"], choices=["shared", "pruning"])
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    try:
        tables = []
        for name in args.only:
            (scratch / name).mkdir()
            tables.append("\n".join({"shared": shared, "pruning": pruning}[name](scratch / name)))
            print(tables[-1], flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.out:
        args.out.write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    sys.exit(any("FAILED" in table for table in tables))


if __name__ == "__main__":
    main()
