"""Two rewards of different scale: GRPO goes where the larger numbers are, the long wrong answer; GDPO (gdpo_rl) does not.

Both start from the same sft model of the embedded world, on the same opinion prompts with the same settings. `correct` is 1 where the
answer takes one of the six stances, else 0; `long` is the number of words. The longest answers take another stance. On held-out prompts,
greedy answers: the share that is correct, and their words. The claim of arXiv 2601.05242 at its simplest: GRPO loses the correct answer,
which GDPO learns; the bench fails where that does not hold on every seed.

    python bench/rewards.py [--seeds 0 1 2] [--store multirun/.store] [--out FILE]
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
ARMS = ("grpo", "gdpo_rl")
MEASURES = ("reward/correct", "reward/long")
REWARDS = (
    "method.rewards=[{_target_:lexalign.rewards.Format,name:correct,pattern:'1<change it a little>.*'},"
    "{_target_:lexalign.rewards.Length,name:long}]"
)
EQUAL = ["data=tiny_beliefs", "train.max_steps=40", "train.learning_rate=2e-3", "train.batch_size=32", "method.generations=8", REWARDS]


def measure(overrides: list[str], store: Path, scratch: Path) -> dict[str, dict[str, float]]:
    """The metrics of a run, before and after."""
    from lexalign.config.compose import compose
    from lexalign.config.context import RunContext
    from lexalign.runs.execute import execute

    out_dir = Path(tempfile.mkdtemp(dir=scratch))
    command = ["stage=align", "tracking=none", f"store={store}", f"output_dir={out_dir}", *EQUAL, *overrides]
    return execute(compose(command), RunContext(out_dir=out_dir, name="bench")).metrics


def main() -> None:
    """Run both methods on every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--store", type=Path, default=ROOT / "multirun" / ".store")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    table: dict[str, list[dict[str, float]]] = {"before: sft": [], **{name: [] for name in ARMS}}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in args.seeds:
            for name in ARMS:
                metrics = measure([f"method={name}", f"seed={seed}"], args.store, Path(scratch))
                table[name].append(metrics["after"])
            table["before: sft"].append(metrics["before"])
    lines = [f"| seeds {', '.join(map(str, args.seeds))} | correct | words |", "|---|---|---|"]
    for name, runs in table.items():
        lines.append(f"| {name} | " + " | ".join(" / ".join(f"{run[measure]:.2f}" for run in runs) for measure in MEASURES) + " |")
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    for seed, before, grpo, gdpo in zip(args.seeds, *table.values(), strict=True):
        lost = grpo["reward/correct"] <= before["reward/correct"] and grpo["reward/long"] > before["reward/long"]
        if not (lost and gdpo["reward/correct"] > 0.9):
            sys.exit(f"seed {seed}: the claim does not hold")
    print("gate: grpo loses the correct answer and writes more words, gdpo_rl has it in more than 0.9, on every seed")


if __name__ == "__main__":
    main()
