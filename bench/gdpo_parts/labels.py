"""gdpo_soft, cdpo_soft and dpo on pairs whose true preference is known and whose labels are shares of a few simulated judges."""

import math
import statistics
from pathlib import Path

from gdpo_parts.runs import Desk, format_mean, format_table
from gdpo_parts.worlds import write

from lexalign.embedded.people import make_people
from lexalign.embedded.tasks import PREFERENCES, soft_rows

ARMS = ("dpo", "gdpo_soft", "cdpo_soft")
JUDGES = (3, 10)
EQUAL = ["train.learning_rate=1e-3", "train.epochs=3", "train.batch_size=16", "method.beta=0.1"]
SHARES = sorted(PREFERENCES.values())


def compare(desk: Desk, seeds: list[int]) -> list[str]:
    """A table for each number of judges: the distance of the implied preference from the true one, and where it lies for each true one."""
    lines: list[str] = []
    for judges in JUDGES:
        folders = {seed: make_data_set(Path(desk.scratch) / f"judges-{judges}-{seed}", judges, seed) for seed in seeds}
        rows = {}
        for arm in ARMS:
            runs = [list_implied_labels(desk, arm, *folders[seed], seed) for seed in seeds]
            errors = [statistics.mean(abs(guess - share) for guess, share in run) for run in runs]
            means = [statistics.mean(guess for run in runs for guess, true in run if true == share) for share in SHARES]
            rows[arm] = [format_mean(errors), *(f"{mean:.2f}" for mean in means)]
            print(judges, arm, rows[arm], flush=True)
        columns = ("mean distance from the true share", *(f"implied where {share:.2f} is true" for share in SHARES))
        lines += ["", *format_table(f"{judges} judges a pair; seeds {', '.join(map(str, seeds))}", columns, rows)]
    return lines


def make_data_set(folder: Path, judges: int, seed: int) -> tuple[Path, list[float]]:
    """Pairs labelled by so many judges, the majority's choice first, as dpo reads them; and the true shares of the held-out ones."""
    train, test = soft_rows(make_people(), seed, judges)
    write(folder, [put_majority_first(row) for row in train], test)
    return folder, [row["soft_label"] for row in test]


def put_majority_first(row: dict) -> dict:
    """The same pair with the response that most judges prefer as the chosen one."""
    if row["soft_label"] >= 0.5:
        return row
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"], "soft_label": 1 - row["soft_label"]}


def list_implied_labels(desk: Desk, arm: str, folder: Path, shares: list[float], seed: int) -> list[tuple[float, float]]:
    """(σ(β·h), true share) of each held-out pair after a run: the preference that its rewards imply."""
    _, rows = desk.run(f"method={arm}", "data=tiny_soft", f"data.path={folder}", *EQUAL, f"seed={seed}")
    margins = rows["after"]["reward_margin"]["values"]
    return [(1 / (1 + math.exp(-margin)), share) for margin, share in zip(margins, shares, strict=True)]
