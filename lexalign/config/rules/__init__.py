"""Checks across groups: they report all contradictions in an experiment at once, each with advice on what to type instead.

A rule is a generator of problems. `typed` holds the dotted keys (and groups) that the user typed, so that an option that this experiment
does not read is refused, not ignored.
"""

from lexalign.config.rules import data, evaluation, export_and_chat, methods, paths, processes, report, rewards, tracking, training
from lexalign.config.rules.secrets import check_secrets
from lexalign.config.schema import Experiment

__all__ = ["check_secrets", "find_problems"]
GROUPS = (methods, paths, data, training, processes, evaluation, export_and_chat, rewards, report, tracking)
RULES = [rule for group in GROUPS for rule in group.RULES]


def find_problems(experiment: Experiment, typed: frozenset[str]) -> list[str]:
    """All problems of an experiment whose types are right."""
    return [problem for rule in RULES for problem in rule(experiment, typed)]
