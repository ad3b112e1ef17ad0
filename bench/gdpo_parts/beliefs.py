"""gdpo, its ablations and dpo on questions with known shares of beliefs, at equal settings, in two worlds."""

import math
from pathlib import Path

from gdpo_parts import choice, worlds
from gdpo_parts.runs import Desk, format_mean, format_table

EQUAL = ["train.learning_rate=3e-3", "train.epochs=3", "train.batch_size=8"]
SFT = "before: sft"
ARMS = {
    "dpo": ["method=dpo"],
    "conditional dpo (weights 0, 0, 1)": ["method=gdpo", "method.calibration_weight=0", "method.belief_weight=0"],
    "calibration only (weights 1, 1, 0)": ["method=gdpo", "method.preference_weight=0"],
    "gdpo": ["method=gdpo"],
}
MEASURES = ("belief_jsd", "belief_jsd_sampled", "majority_bias", "belief_consistency")


def compare(desk: Desk, seeds: list[int], samples: int) -> tuple[list[str], list[str]]:
    """The tables of both worlds, and where the gate of arXiv 2412.20299's claim does not hold."""
    lines: list[str] = []
    failures: list[str] = []
    for world in (worlds.get_embedded(), worlds.make_animals(Path(desk.scratch) / "animals")):
        table = measure_world(desk, world, seeds, samples)
        cells = {name: [format_mean([run.get(measure, math.nan) for run in runs]) for measure in MEASURES] for name, runs in table.items()}
        lines += ["", *format_table(f"{world.name}; seeds {', '.join(map(str, seeds))}", MEASURES, cells)]
        failures += [f"{world.name}, seed {seed}: {problem}" for seed, problem in find_failures(table, seeds)]
    return lines, failures


def settings(world: worlds.World, arm: str) -> list[str]:
    """The overrides of an arm in a world."""
    beta = world.betas.get(arm)
    return [*world.overrides, *EQUAL, *ARMS[arm], *([] if beta is None else [f"method.beta={beta}"])]


def measure_losses(desk: Desk) -> list[str]:
    """The table that the second world's beta was chosen from."""
    world = worlds.make_animals(Path(desk.scratch) / "choice")
    losses = {name: choice.measure_losses(desk, world.overrides, [*EQUAL, *ARMS[name]]) for name in worlds.WITH_BETA}
    cells = {name: [f"{loss:.2f}" for loss in row] for name, row in losses.items()}
    return ["", *format_table(f"{world.name}; seed {choice.SEED}", tuple(f"beta {beta:g}" for beta in choice.BETAS), cells)]


def measure_world(desk: Desk, world: worlds.World, seeds: list[int], samples: int) -> dict[str, list[dict[str, float]]]:
    """The metrics of each arm on each seed."""
    table: dict[str, list[dict[str, float]]] = {SFT: [], **{name: [] for name in ARMS}}
    for seed in seeds:
        for name in ARMS:
            metrics, _ = desk.run(*settings(world, name), f"seed={seed}", f"evaluate.belief_samples={samples}")
            table[name].append(metrics["after"])
            seen = {measure: round(metrics["after"].get(measure, math.nan), 3) for measure in MEASURES}
            print(world.name, seed, name, seen, flush=True)
        table[SFT].append(metrics["before"])
    return table


def find_failures(table: dict[str, list[dict[str, float]]], seeds: list[int]) -> list[tuple[int, str]]:
    """Seeds on which JSD(gdpo) < JSD(dpo) / 2 and consistency(gdpo) > consistency(dpo) does not hold."""
    problems = []
    for seed, dpo, gdpo in zip(seeds, table["dpo"], table["gdpo"], strict=True):
        if not gdpo["belief_jsd"] < dpo["belief_jsd"] / 2:
            problems.append((seed, f"JSD of gdpo {gdpo['belief_jsd']:.3f} is not below half of dpo's {dpo['belief_jsd']:.3f}"))
        if not gdpo["belief_consistency"] > dpo["belief_consistency"]:
            what = f"consistency of gdpo {gdpo['belief_consistency']:.3f} is not above dpo's {dpo['belief_consistency']:.3f}"
            problems.append((seed, what))
    return problems
