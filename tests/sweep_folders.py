"""Folders of sweeps as a sweep leaves them: a ledger, and what its jobs wrote."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lexalign.sweeps.ledger import Job, Ledger

PRUNED = (
    "-m", "stage=sft", "tracking=none", "train.max_steps=18", "train.eval_steps=2", "data.limit=64", "evaluate.limit=8",
    "evaluate.samples=0", "evaluate.max_new_tokens=2", "preflight=skip", "hardware.threads=1", "train.max_length=96",
    "sweep.objectives=[loss]",
)  # fmt: skip
"""A sweep whose jobs are measured nine times; what it varies is still to be typed."""
RATES = ("1e-4", "3e-4", "1e-3", "3e-3")


def finished(number: int, score: float, *, name: str = "belief_jsd", direction: str = "minimize", **values: Any) -> Job:
    """A job that ended well; `values` are its settings, dots written as two underscores."""
    typed = {key.replace("__", "."): str(value) for key, value in values.items()}
    return Job(
        key=f"key{number}", number=number, overrides=["stage=align", *(f"{key}={text}" for key, text in typed.items())], values=typed,
        stage="align", method="gdpo", folder=str(number), state="finished", attempts=1, started=1.7e9, seconds=60.0, steps=100,
        score=score, score_name=name, score_direction=direction, metrics={name: score},
    )  # fmt: skip


def swept(folder: Path, jobs: Sequence[Job], *, command: str | Sequence[str] = ("-m", "stage=align"), **facts: Any) -> Path:
    """A sweep's folder with these jobs in its ledger."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = list(dict.fromkeys(key for job in jobs for key in job.values))
    with Ledger(folder, write=True) as ledger:
        ledger.write_jobs(jobs)
        ledger.write_facts(**{"command": command, "identity": "ab", "swept": keys, "created": 1.7e9, "objectives": [], **facts})
    return folder


def searched(folder: Path, count: int, *, seeds: int = 2, logged: int = 60) -> Path:
    """A random search: the learning rate decides most, beta some, rank and scheduler nothing; some jobs fail, some are pruned."""
    chance, jobs = random.Random(0), []
    for number in range(count):
        if number % seeds == 0:
            rate, beta = chance.choice(RATES), f"{10 ** chance.uniform(-2, 0):.4g}"
            rank, scheduler = chance.choice(("4", "8", "16")), chance.choice(("linear", "cosine"))
        away = abs(math.log10(float(rate)) + 3) * 0.15 + abs(math.log10(float(beta)) + 1) * 0.05
        score = 0.05 + away + abs(chance.gauss(0, 0.01))
        job = finished(
            number, score, train__learning_rate=rate, method__beta=beta, adapter__rank=rank, train__scheduler=scheduler, seed=number % seeds
        )
        job.metrics |= {"reward_accuracy": 1 - score * chance.uniform(0.5, 1.5), "kl": chance.random()}
        if number % 10 == 3:
            job = Job(**{**vars(job), "state": "pruned", "score": None, "metrics": {}, "reason": "median at step 60", "steps": 60})
        elif number % 25 == 7:
            job = Job(**{**vars(job), "state": "failed", "score": None, "metrics": {}, "reason": "killed by signal 11", "steps": 20})
        jobs.append(job)
        if number < logged:
            log(folder / str(number), score)
    parent = Job(key="p", number=None, overrides=["experiment=tiny/sft"], stage="sft", method="lora", folder="/gone", seconds=20.0)
    parent.state = "finished"
    return swept(folder, [*jobs, parent])


def log(folder: Path, score: float) -> None:
    """What a job writes while it trains."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"step": step, "loss": score + 2 * math.exp(-step / 40), "eval_loss": score} for step in range(10, 110, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "job.out").write_text("Training\n\x1b[31mstep 1\rstep 2\x1b[0m\nRuntimeError: boom\n")
