"""What a command line is refused for, in this process."""

import contextlib
import copy
import functools
import io
from collections.abc import Sequence
from typing import Any

from lexalign.cli import check_command_line
from lexalign.config import rules, targets
from lexalign.config.loading import CONF_ONLY, resolve_tree
from lexalign.config.overrides import list_typed_keys, parse_overrides
from lexalign.config.parsing import parse
from lexalign.config.schema import Experiment


def problems_of(words: str | Sequence[str]) -> list[str]:
    """The problems a command line is refused with; empty where it is accepted."""
    words = words.split() if isinstance(words, str) else list(words)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            check_command_line(words)
    except SystemExit as stop:
        assert stop.code == 2
        lines = errors.getvalue().splitlines()  # notes on what was read in another way come first
        head = next(at for at, line in enumerate(lines) if line.endswith("in the settings; nothing was run or written:"))
        problems = lines[head + 1 :]
        assert all(problem.startswith(("  - ", "  … ")) for problem in problems), "one problem a line"
        return [problem[4:] for problem in problems]
    return []


def said(problems: Sequence[str], *fragments: str) -> bool:
    """Whether one of the problems holds all fragments."""
    return any(all(fragment in problem for fragment in fragments) for problem in problems)


@functools.cache
def tree_of(base: str) -> dict[str, Any]:
    """The settings that the choices of `base` make, not judged yet."""
    return resolve_tree(CONF_ONLY.compose(base.split()), [])


def judged(base: str, typed: str) -> list[str]:
    """What the rules say of `typed` on top of `base`: as `problems_of`, without Hydra composing both anew."""
    tree = copy.deepcopy(tree_of(base))
    for override in parse_overrides(typed.split()):
        *path, leaf = override.key_or_group.split(".")
        functools.reduce(dict.__getitem__, path, tree)[leaf] = override.value()
    types: list[str] = []
    experiment = parse(Experiment, tree, "", types, targets.get_settings_class(tree, [targets.OWN_PACKAGE], types))
    assert experiment is not None, types
    return rules.find_problems(experiment, list_typed_keys([*base.split(), *typed.split()]))
