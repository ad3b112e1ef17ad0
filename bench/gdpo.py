"""What alignment does to a group's beliefs: dpo, the ablations of gdpo and gdpo itself, at equal settings, on questions with known shares.

Every arm starts from the same sft model of the embedded world and sees the same pairs in the same batches; only the loss differs. On
held-out questions of `tiny_beliefs`: the Jensen-Shannon distance of the beliefs to the known shares (by probability, and by samples), the
majority bias (1 is right), and how often a sampled response agrees with the belief it begins with. The gate of arXiv 2412.20299's claim:
JSD(gdpo) < JSD(dpo) / 2 and consistency(gdpo) > consistency(dpo), on every seed; the bench fails where it does not hold.

    python bench/gdpo.py [--seeds 0 1 2] [--samples 16] [--store multirun/.store] [--out FILE]
"""

import argparse
import math
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
EQUAL = ["train.learning_rate=3e-3", "train.epochs=3", "train.batch_size=8"]
BETA = "method.beta=0.5"
ARMS = {
    "dpo": ["method=dpo", BETA],
    "conditional dpo (weights 0, 0, 1)": ["method=gdpo", "method.calibration_weight=0", "method.belief_weight=0", BETA],
    "calibration only (weights 1, 1, 0)": ["method=gdpo", "method.preference_weight=0"],
    "gdpo": ["method=gdpo", BETA],
}
MEASURES = ("belief_jsd", "belief_jsd_sampled", "majority_bias", "belief_consistency")


def measured(overrides: list[str], store: Path, scratch: Path) -> dict[str, dict[str, float]]:
    """The metrics of a run, before and after."""
    from lexalign.compose import compose
    from lexalign.runs import execute

    out_dir = Path(tempfile.mkdtemp(dir=scratch))
    command = ["stage=align", "data=tiny_beliefs", "tracking=none", f"store={store}", f"output_dir={out_dir}", *EQUAL, *overrides]
    return execute(compose(command), out_dir=out_dir, name="bench", group=None).metrics


def main() -> None:
    """Run every arm on every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=16, help="responses drawn for each held-out question")
    parser.add_argument("--store", type=Path, default=ROOT / "multirun" / ".store")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    table: dict[str, list[dict[str, float]]] = {"before: sft": [], **{name: [] for name in ARMS}}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in args.seeds:
            for name, overrides in ARMS.items():
                found = measured([*overrides, f"seed={seed}", f"evaluate.belief_samples={args.samples}"], args.store, Path(scratch))
                table[name].append(found["after"])
            table["before: sft"].append(found["before"])
    lines = [f"| seeds {', '.join(map(str, args.seeds))} | {' | '.join(MEASURES)} |", "|---" * (len(MEASURES) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(shown([run[measure] for run in runs]) for measure in MEASURES)} |" for name, runs in table.items()]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    for seed, dpo, gdpo in zip(args.seeds, table["dpo"], table["gdpo"], strict=True):
        if not (gdpo["belief_jsd"] < dpo["belief_jsd"] / 2 and gdpo["belief_consistency"] > dpo["belief_consistency"]):
            sys.exit(f"seed {seed}: the gate does not hold")
    print("gate: JSD(gdpo) < JSD(dpo) / 2 and consistency(gdpo) > consistency(dpo) on every seed")


def shown(values: list[float]) -> str:
    """Each seed's value, and the mean with its 95 % interval (Student's t, two sides) where there are three or more."""
    listed = " / ".join(f"{value:.3f}" for value in values)
    if len(values) < 3:
        return listed
    half = {3: 4.303, 4: 3.182, 5: 2.776}.get(len(values), 2.0) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{listed} ({statistics.mean(values):.3f} ± {half:.3f})"


if __name__ == "__main__":
    main()
