"""A stage in this process, with the tracker that watches it."""

from pathlib import Path
from typing import Any

from hydra.utils import get_class, get_method

from lexalign.compose import Composed
from lexalign.locate import find_model
from lexalign.results import Result
from lexalign.schema import Experiment


def staged(composed: Composed, started_from: Experiment, out_dir: Path, *, name: str, group: str | None, speaks: bool = True) -> Result:
    """The stage in this process; of several, the first one `speaks` to the tracker."""
    with tracker_of(composed, out_dir=out_dir, name=name, group=group, silent=not speaks) as tracker:
        if started_from.model.path and (base := find_model(started_from.model.path)).kind == "run" and base.path:
            tracker.starts_from(base.path)
        return get_method(started_from.stage.target)(started_from, out_dir, tracker)


def tracker_of(composed: Composed, *, out_dir: Path, name: str, group: str | None, silent: bool) -> Any:
    """The tracker that `tracking._target_` names, or the silent one, as for a dry run."""
    experiment = composed.experiment
    target = "lexalign.tracking.NoTracker" if experiment.dry_run or silent else experiment.tracking.target
    return get_class(target)(
        experiment.tracking,
        out_dir=out_dir,
        config=composed.tree,
        run_name=name,
        group=group,
        job_type=experiment.stage.name,
        typed=composed.typed,
    )
