"""What alignment does to diversity: dpo against gdpo_flow with the authors' settings and with alpha = gamma = 1.

Every arm starts from the same model of the embedded world, which first learned to answer in both manners (sft on the chosen and on the
rejected responses of `tiny_pairs`, as often each), sees the same pairs in the same batches, and differs in the loss and its learning rate
only. Measured on held-out questions: the preferred share π(chosen) / (π(chosen) + π(rejected)) of a pair, reward accuracy, and on responses
drawn at temperature 1 the share in the preferred (courteous) manner, the entropy of the policy in nats a token and a response, and how many
of a question's samples are different.

The gate, on every seed, with alpha = gamma = 1: gdpo_flow keeps more entropy than dpo, by token and by response, and its preferred share is
above that of the model it started from; the bench fails where it does not hold. (The authors' settings are measured, and not gated.)

    python bench/flow.py [--seeds 0 1 2] [--questions 80] [--samples 16] [--store multirun/.store] [--out FILE]
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
EQUAL = ["stage=align", "model=tiny", "data=tiny_pairs", "tracking=none", "train.epochs=4", "train.batch_size=16", "hardware.threads=1"]
GATED = "gdpo_flow, alpha = gamma = 1"
# A learning rate each, chosen on seed 0 for what is preferred while sentences stay whole; docs/methods/gdpo-flow.md tells what others did.
ARMS = {
    "dpo": ["method=dpo", "train.learning_rate=1e-4"],
    "gdpo_flow, alpha = gamma = 0.1": ["method=gdpo_flow", "train.learning_rate=1e-4", "method.alpha=0.1", "method.gamma=0.1"],
    GATED: ["method=gdpo_flow", "train.learning_rate=3e-3", "method.alpha=1", "method.gamma=1"],
}
MEASURES = ("preferred share", "courteous", "nats a token", "nats a response", "different", "reward accuracy")


def run_stage(overrides: list[str], scratch: Path) -> tuple[Path, dict[str, dict[str, float]]]:
    """The artifact and the metrics of a run."""
    from lexalign.config.compose import compose
    from lexalign.config.context import RunContext
    from lexalign.runs.execute import execute

    out_dir = Path(tempfile.mkdtemp(dir=scratch))
    result = execute(compose([*overrides, f"output_dir={out_dir}"]), RunContext(out_dir=out_dir, name="bench"))
    return out_dir / "artifact", result.metrics


def make_bilingual(store: Path, scratch: Path) -> Path:
    """A model that answers in both manners: the embedded sft, then sft on both responses of each pair."""
    from lexalign.config.paths import EMBEDDED

    rows = [json.loads(line) for line in (EMBEDDED / "data/tiny_pairs/train.jsonl").read_text().splitlines()]
    both = [{"prompt": row["prompt"], "completion": row[side]} for row in rows for side in ("chosen", "rejected")]
    (scratch / "both.jsonl").write_text("".join(json.dumps(row) + "\n" for row in both))
    data = ["data=instructions", f"data.path={scratch / 'both.jsonl'}", "data.eval_fraction=null", "evaluate.enabled=false"]
    common = ["stage=sft", f"store={store}", "tracking=none", "hardware.threads=1"]
    return run_stage(
        [*common, "method=full", "model=tiny_sft", *data, "train.learning_rate=1e-3", "train.epochs=6", "train.batch_size=16"], scratch
    )[0]


def measure_draws(folder: Path, *, questions: int, samples: int) -> dict[str, float]:
    """The measures of a model's own responses."""
    import torch

    from lexalign.config.compose import compose
    from lexalign.data.rendering import Renderer
    from lexalign.data.rows import load_rows
    from lexalign.embedded.tasks import COURTEOUS
    from lexalign.evaluation.scoring import WHOLE_DISTRIBUTION, score_responses
    from lexalign.models import loading

    experiment = compose(["stage=align", "model=tiny", f"model.path={folder}", "data=tiny_pairs", "tracking=none"]).experiment
    loaded, rows = loading.load_model(experiment), load_rows(experiment).held_out[:questions]
    encoder, model = Renderer(loaded.tokenizer, experiment.data), loaded.model.eval()
    manners = [re.compile(re.escape(form).replace(re.escape("{a}"), "(.*)"), re.DOTALL) for form in COURTEOUS]
    measures: dict[str, list[float]] = {name: [] for name in MEASURES[:-1]}
    for row in rows:
        pair = encoder.render_pair(row, shared_belief=False)
        (chosen, _), (rejected, _) = score_responses(model, pair, batch_size=2, max_length=1024)
        measures["preferred share"].append(torch.tensor(chosen - rejected).sigmoid().item())
    torch.manual_seed(0)
    for row in rows:
        context = torch.tensor([encoder.render_prompt(row["prompt"])])
        out = model.generate(
            context, attention_mask=torch.ones_like(context), max_new_tokens=40, num_return_sequences=samples, output_logits=True,
            return_dict_in_generate=True, pad_token_id=loaded.tokenizer.pad_token_id, **WHOLE_DISTRIBUTION,
        )  # fmt: skip
        ids = out.sequences[:, context.shape[1] :]
        alive = ((ids == encoder.end()[0]).cumsum(1) - (ids == encoder.end()[0]).long()) == 0  # the end itself is drawn too
        entropies = torch.distributions.Categorical(logits=torch.stack(out.logits, 1).float()).entropy() * alive
        texts = loaded.tokenizer.batch_decode(ids, skip_special_tokens=True)
        measures["courteous"] += [float(any(form.fullmatch(text) for form in manners)) for text in texts]
        measures["different"].append(len(set(texts)) / samples)
        measures["nats a response"] += entropies.sum(1).tolist()
        measures["nats a token"] += entropies[alive].tolist()
    return {name: statistics.mean(values) for name, values in measures.items()}


def main() -> None:
    """Run every arm on every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--questions", type=int, default=80, help="held-out questions to answer")
    parser.add_argument("--samples", type=int, default=16, help="responses drawn to each")
    parser.add_argument("--store", type=Path, default=ROOT / "multirun" / ".store")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    table: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as scratch:
        start = make_bilingual(args.store, Path(scratch))
        before = {**measure_draws(start, questions=args.questions, samples=args.samples), "reward accuracy": 0.5}
        for seed in args.seeds:
            for name, overrides in ARMS.items():
                command = [*EQUAL, *overrides, f"model.path={start}", f"store={args.store}", f"seed={seed}", "evaluate.samples=0"]
                artifact, metrics = run_stage(command, Path(scratch))
                own = measure_draws(artifact, questions=args.questions, samples=args.samples)
                table[name].append({**own, "reward accuracy": metrics["after"]["reward_accuracy"]})
    lines = [f"| seeds {', '.join(map(str, args.seeds))} | {' | '.join(MEASURES)} |", "|---" * (len(MEASURES) + 1) + "|"]
    for name, runs in {"before": [before], **table}.items():
        lines.append(f"| {name} | {' | '.join(format_mean(run[measure] for run in runs) for measure in MEASURES)} |")
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    if failures := find_failures(before, table, args.seeds):
        sys.exit("the gate does not hold:\n" + "\n".join(failures))
    print(f"gate: on every seed {GATED} keeps more entropy than dpo and prefers more than before")


def find_failures(before: dict[str, float], table: dict[str, list[dict[str, float]]], seeds: list[int]) -> list[str]:
    """Where gdpo_flow has no more entropy than dpo, or prefers no more than the model before alignment; both are asked on every seed."""
    problems = []
    for seed, dpo, flow in zip(seeds, table["dpo"], table[GATED], strict=True):
        bounds = {"nats a token": ("dpo's", dpo), "nats a response": ("dpo's", dpo), "preferred share": ("what it was before,", before)}
        for measure, (whose, bound) in bounds.items():
            if not flow[measure] > bound[measure]:
                problems.append(f"seed {seed}: {measure} of gdpo_flow {flow[measure]:.3f} is not above {whose} {bound[measure]:.3f}")
    return problems


def format_mean(values: Iterable[float]) -> str:
    """Each seed's value."""
    return " / ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
