"""What alignment does to a group's beliefs and to uncertain preferences: the GDPO methods against dpo, at equal settings.

Every arm starts from the same sft model of a made-up world and sees the same pairs in the same batches; only the loss differs, and in the
second world its beta.

`beliefs`: dpo, the ablations of gdpo and gdpo, on held-out questions with known shares, in two worlds of different size: the
Jensen-Shannon distance of the beliefs to the shares (by probability, and by samples), the majority bias (1 is right), and how often a
sampled response agrees with the belief it begins with. The gate of arXiv 2412.20299's claim: JSD(gdpo) < JSD(dpo) / 2 and
consistency(gdpo) > consistency(dpo), on every seed in both worlds; the bench fails where it does not hold.

`betas`: what the second world's betas were chosen from, the same way for every arm: the loss of people's own answers, belief and sentence,
on a fifth of the training prompts, held out of these runs alone; seed 0. The smallest is taken. (Not run unless it is named.)

`labels`: dpo, gdpo_soft and cdpo_soft on labels drawn from 3 and from 10 judges a pair, whose true share is known: how far the preference
that the rewards imply is from it on held-out pairs.

    python bench/gdpo.py [--parts betas beliefs labels] [--seeds 0 1 2] [--samples 16] [--store multirun/.store] [--out FILE]
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Run the parts and print their tables."""
    from gdpo_parts import beliefs, labels
    from gdpo_parts.runs import Desk

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["betas", "beliefs", "labels"], default=["beliefs", "labels"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=16, help="responses drawn for each held-out question")
    parser.add_argument("--store", type=Path, default=ROOT / "multirun" / ".store")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines: list[str] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        desk = Desk(Path(scratch), args.store)
        if "beliefs" in args.parts:
            lines, failures = beliefs.compare(desk, args.seeds, args.samples)
        if "betas" in args.parts:
            lines += beliefs.measure_losses(desk)
        if "labels" in args.parts:
            lines += labels.compare(desk, args.seeds)
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines).strip() + "\n")
    if failures:
        sys.exit("the gate does not hold:\n" + "\n".join(failures))
    if "beliefs" in args.parts:
        print("gate: JSD(gdpo) < JSD(dpo) / 2 and consistency(gdpo) > consistency(dpo) on every seed in both worlds")


if __name__ == "__main__":
    main()
