"""Where numbers go, what is kept for other runs, and how many runs there are."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lexalign.parse import Range
from lexalign.schema.ranges import Count, Positive


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where the run's numbers are shown."""

    target: str
    """Dotted path of the tracker class."""
    project: str | None
    """Project of W&B, or of trackio."""
    entity: str | None
    """W&B user or team; null = the account's own."""
    mode: Literal["auto", "online", "offline"] | None
    """auto = online where a key is configured, offline otherwise."""
    group: str | None
    """Runs shown together; null = the sweep, or the parents' group for a parent."""
    name: str | None
    """null = the overrides of the run."""
    tags: list[str] | None
    """Tags beside those made of the overrides."""
    link_artifacts: bool | None
    """Link a run to the artifacts it starts from and leaves, so that their lineage is drawn. By reference: the address of the manifest on
    this machine and the folder's path are sent, no other file."""
    folder: str | None
    """Where trackio keeps its database; null = where `trackio show` looks for it (TRACKIO_DIR, else below HF_HOME)."""
    init_timeout: Annotated[float, Positive] | None
    """Seconds to wait for the server at the start."""
    finish_timeout: Annotated[float, Positive] | None
    """Seconds to wait for the server at the end."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What runs share below `store`: tokenised rows and the reference's log-probabilities."""

    action: Literal["keep", "show", "clear"]
    """keep = use it; show and clear list or empty it instead of running."""
    max_gb: Annotated[float, Positive]
    """Gigabytes each of the two may take; what was longest unused goes first."""


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
