"""Check the rewards of a reinforcement method, the groups of its answers, and settings that it does not read."""

import importlib
import math
from collections.abc import Iterator
from typing import get_type_hints

from lexalign.config import targets
from lexalign.config.parsing import convert
from lexalign.config.schema import Experiment, GrpoMethod, RewardMethod
from lexalign.config.targets import find_wrong_arguments
from lexalign.rewards.base import Reward
from lexalign.rewards.settings import Entry, find_unnamed_columns, read_rewards

REWARDS = f"{targets.OWN_PACKAGE}.rewards"


def check_rewards(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    method = experiment.method
    if not isinstance(method, RewardMethod):
        return
    problems: list[str] = []
    entries = read_rewards(method.rewards, problems)
    yield from problems
    for entry in entries:
        yield from check_reward(entry, experiment)
    count = sum(entry.listed.weight != 0 for entry in entries)
    if isinstance(method, GrpoMethod):
        if not method.rewards:
            example = "'method.rewards=[{_target_:lexalign.rewards.Length,cap:40}]'"
            yield f"method.rewards=[]: without a reward there is nothing to learn; name one: {example}"
    elif not problems and count < 2:
        yield (
            f"method.rewards: method={method.name} normalises each of several rewards by itself, and here {count} count; "
            "name two or more, or type method=grpo"
        )


def check_reward(entry: Entry, experiment: Experiment) -> Iterator[str]:
    """Problems of the class and arguments of one reward. Our rewards are created, without heavy imports; the source of others is read."""
    path = entry.listed.target
    if targets.explain_wrong_target(path, [targets.OWN_PACKAGE, *experiment.extensions]) is not None:
        return  # `targets.find_target_problems` reports this
    argument_problems = find_wrong_arguments(path, list(entry.arguments), entry.where)
    yield from argument_problems
    if argument_problems or path.split(".")[0] != targets.OWN_PACKAGE:
        return
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name) if module.startswith(REWARDS) else None
    if cls is None or not issubclass(cls, Reward) or cls is Reward:
        yield f"{entry.where}._target_={path}: is no reward; there are ExactMatch, Format, Length and RewardModel in lexalign.rewards"
        return
    hints, problems = get_type_hints(cls, include_extras=True), list[str]()
    arguments = {key: convert(hints[key], value, f"{entry.where}.{key}", problems) for key, value in entry.arguments.items()}
    if not problems:
        try:
            cls(**arguments)
        except ValueError as error:
            problems.append(f"{entry.where}: {error}")
    yield from problems
    yield from find_unnamed_columns(entry, cls.reads, experiment.data.columns)


def check_groups(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    method, train = experiment.method, experiment.train
    if not isinstance(method, RewardMethod) or train is None:
        return
    answers = train.batch_size * train.gradient_accumulation_steps
    if answers % method.generations:
        step = method.generations // math.gcd(method.generations, train.gradient_accumulation_steps)
        yield (
            f"train.batch_size={train.batch_size}: with train.gradient_accumulation_steps={train.gradient_accumulation_steps} a step has "
            f"{answers} answers, which makes no whole groups of method.generations={method.generations}; "
            f"type train.batch_size={-(-train.batch_size // step) * step}"
        )
    if train.eval_steps is not None and experiment.evaluate.batch_size % method.generations:
        batch_size = -(-experiment.evaluate.batch_size // method.generations) * method.generations
        yield (
            f"evaluate.batch_size={experiment.evaluate.batch_size}: train.eval_steps draws groups of "
            f"method.generations={method.generations}; type evaluate.batch_size={batch_size}"
        )
    if method.max_new_tokens >= train.max_length:
        yield (
            f"method.max_new_tokens={method.max_new_tokens}: leaves no prompt any room in train.max_length={train.max_length}; "
            "type a larger train.max_length, or fewer new tokens"
        )
    if method.iterations == 1 and "method.epsilon" in typed:
        yield (
            "method.epsilon: with method.iterations=1 each answer is learned from once, by the policy that wrote it, and no ratio "
            "leaves 1; leave it out, or type method.iterations=2 or more"
        )


def check_unread(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Refuse settings for batches of other methods: here TRL makes the batches from groups of answers."""
    method, train = experiment.method, experiment.train
    if not isinstance(method, RewardMethod) or train is None:
        return
    if train.max_tokens is not None:
        yield f"train.max_tokens: method={method.name} has batches of whole groups; type train.batch_size=<answers> instead"
    if train.group_by_length:
        yield f"train.group_by_length=true: method={method.name} has batches of whole groups; leave it out"
    if "train.fast_path" in typed:
        yield f"train.fast_path: is not read by method={method.name}, which computes answers with TRL's own forward; leave it out"


RULES = (check_rewards, check_groups, check_unread)
