"""The checks across groups: every contradiction in an experiment, all at once, each with what to type instead.

A rule is a generator of problems. `typed` holds the dotted keys (and groups) that the user typed, so that an option which this
experiment would not read is refused rather than ignored.
"""

from lexalign.rules import choices, delivering, evaluating, places, reading, reporting, rewards, running, together, tracking
from lexalign.rules.secrets import secrets
from lexalign.schema import Experiment

__all__ = ["problems", "secrets"]
GROUPS = (choices, places, reading, running, together, evaluating, delivering, rewards, reporting, tracking)
RULES = [rule for group in GROUPS for rule in group.RULES]


def problems(experiment: Experiment, typed: frozenset[str]) -> list[str]:
    """Everything wrong with an experiment whose types are right."""
    return [problem for rule in RULES for problem in rule(experiment, typed)]
