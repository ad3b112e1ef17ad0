"""Many runs as one."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lexalign.config.parsing import Range
from lexalign.config.schema.ranges import Count


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Many runs as one: how the points of `-m` are chosen and run. Read by the sweep, not by its runs."""

    folder: str
    """Folder of the sweeps that are given no `output_dir`: each has one below it, found again by what is swept."""
    jobs: Count | Literal["auto"]
    """Runs at a time; auto = one on each GPU, and on the CPU as many as the cores and the memory allow."""
    retry: Literal["failed", "none"]
    """What the same command again does with failed points: failed = runs them again from their checkpoints, none = leaves them."""
    fresh: bool
    """Begin a new sweep: reuse no finished point, of this sweep or of others."""
    seeds: Count | None
    """Repeat every point with the seeds 0 to this number less one; null = the one seed."""
    zip: list[list[str]]
    """Axes that go together instead of being crossed: [[method,method.beta]] takes the first value of both, then the second, and so on."""
    points: str | None
    """File of points: CSV with a column for each setting, or JSON lines. Axes that are typed beside it are crossed with its points."""
    fail_fast: bool
    """Stop the sweep when a job fails: no other starts, and those at work save and stop. false = the others go on."""
    sampler: Literal["grid", "random", "tpe"]
    """grid = every point; random and tpe (tree-structured Parzen estimator, Optuna's) draw `trials` of them, from intervals too."""
    trials: Count | None
    """Points to draw; null with sampler=grid."""
    objectives: list[str]
    """Metrics to search by, several for their Pareto front; [] = the score of the runs."""
    pruner: Literal["none", "halving", "asha", "median"]
    """Stop bad points early: halving = successive halving in rounds, of the points of a grid; asha = the same without waiting for a round
    to end, by what is known so far; median = points below the median of the others (these two are Optuna's)."""
    prune_on: str
    """What is compared while the runs train: a number of their evaluations every `train.eval_steps`, such as eval_loss."""
    prune_after: Count
    """Evaluations that every point gets."""
    reduction: Annotated[int, Range(least=2)]
    """Of as many points one goes on at each step of the halving."""
