"""Check the settings that each tracker reads, and whether the tracker is installed."""

import importlib.util
from collections.abc import Iterator

from lexalign.config.schema import Experiment

NAMES = {
    "lexalign.tracking.NoTracker": "none",
    "lexalign.tracking.WandbTracker": "wandb",
    "lexalign.tracking.TrackioTracker": "trackio",
}
UNREAD = {
    "wandb": ("folder",),
    "trackio": ("entity", "mode", "init_timeout", "finish_timeout"),
}


def check_unread(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    name = NAMES.get(experiment.tracking.target)
    for key in sorted(key for key in typed if key.startswith("tracking.") and key != "tracking._target_"):
        if name == "none":
            yield f"{key}: is not read with tracking=none; leave it out, or type tracking=wandb"
        elif key.removeprefix("tracking.") in UNREAD.get(str(name), ()):
            other_trackers = [tracker for tracker, keys in UNREAD.items() if key.removeprefix("tracking.") not in keys]
            yield f"{key}: is not read with tracking={name}; leave it out, or type tracking={other_trackers[0]}"


def is_installed(package: str) -> bool:
    """Whether a package is installed; it is not imported."""
    return importlib.util.find_spec(package) is not None


def check_installed(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    if NAMES.get(experiment.tracking.target) == "trackio" and not is_installed("trackio"):
        yield "tracking=trackio: trackio is not installed; type pip install -e '.[trackio]', or choose tracking=wandb or tracking=none"


RULES = (check_unread, check_installed)
