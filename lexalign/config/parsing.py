"""Parse a plain tree of settings into frozen dataclasses. All problems are collected, not raised one by one.

Types and ranges are defined only in the dataclasses; this module checks values against them. It uses only the standard library, so that
an error message needs no heavy import.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

Parsed = TypeVar("Parsed")
MISSING = object()


@dataclass(frozen=True, kw_only=True)
class Range:
    """Bounds of a number: `above` and `below` exclude the bound, `least` and `most` include it."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None

    def broken_by(self, value: float) -> str | None:
        """The condition that `value` breaks, or None."""
        conditions = []
        is_within = True
        for bound, word, holds in (
            (self.above, "above", lambda b: value > b),
            (self.least, "at least", lambda b: value >= b),
            (self.below, "below", lambda b: value < b),
            (self.most, "at most", lambda b: value <= b),
        ):
            if bound is not None:
                conditions.append(f"{word} {bound}")
                is_within = is_within and holds(bound)
        return None if is_within else " and ".join(conditions)


@dataclass(frozen=True)
class MayBeEmpty:
    """Marks a text that may be empty. Other texts are paths or names, and are empty only if a shell variable was not set."""


@dataclass(frozen=True)
class TypedOnly:
    """Marks a setting that an untrusted file may not set: it must be typed, or be in a file below conf/."""

    because: str
    """The reason, for example: it names an address that rows are sent to."""


def suggest_nearest(word: str, options: typing.Iterable[str]) -> str:
    """`; did you mean x?` for a misspelt word, or an empty string."""
    nearest = difflib.get_close_matches(word, list(options), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""


# Names of our settings in other programs: in the earlier toolkit, in transformers, TRL, PEFT and other frameworks.
OTHER_NAMES = {
    "lr": "train.learning_rate",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "bs": "train.batch_size",
    "micro_batch_size": "train.batch_size",
    "per_device_train_batch_size": "train.batch_size",
    "grad_accum": "train.gradient_accumulation_steps",
    "gradient_accumulation": "train.gradient_accumulation_steps",
    "warmup": "train.warmup_steps",
    "warmup_ratio": "train.warmup_steps",
    "max_seq_length": "train.max_length",
    "cutoff_len": "train.max_length",
    "sequence_len": "train.max_length",
    "logging_steps": "train.log_steps",
    "save_total_limit": "train.keep_checkpoints",
    "lr_scheduler_type": "train.scheduler",
    "optim": "train.optimizer",
    "r": "adapter.rank",
    "lora_r": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "load_in_4bit": "adapter.bits",
    "quantization_bits": "adapter.bits",
    "model_path": "model.path",
    "model_name_or_path": "model.path",
    "base_model": "model.path",
    "attn_implementation": "model.attention",
    "dataset": "data.path",
    "data_path": "data.path",
    "dataset_path": "data.path",
    "text_field": "data.columns.text",
    "prompt_field": "data.columns.prompt",
    "chosen_field": "data.columns.chosen",
    "rejected_field": "data.columns.rejected",
    "pref_beta": "method.beta",
    "pref_loss": "method.loss_type",
    "device": "hardware.device",
    "bf16": "hardware.precision",
    "fp16": "hardware.precision",
    "resume_from_checkpoint": "resume",
    "report_to": "tracking",
}


def describe_unknown_key(full: str, known: typing.Sequence[str]) -> str:
    """The message for a key that is not a setting, with our name for it or the nearest name."""
    parent, _, name = full.rpartition(".")
    siblings = [key for key in known if key.rpartition(".")[0] == parent]
    if name in OTHER_NAMES and OTHER_NAMES[name] != full:
        return f"{full}: unknown setting; here it is {OTHER_NAMES[name]}"
    return f"{full}: unknown setting{suggest_nearest(full, siblings) or suggest_nearest(name, known) or suggest_nearest(full, known)}"


def get_field_key(field: dataclasses.Field) -> str:
    """The key of a field in YAML: Hydra's `_target_` is the field `target`."""
    return "_target_" if field.name == "target" else field.name


def to_plain(value: Any) -> Any:
    """The tree of settings that `parse` would turn into `value`: dictionaries, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {get_field_key(field): to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(inner) for key, inner in value.items()}
    return [to_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def parse(cls: type[Parsed], node: Any, where: str, problems: list[str], choices: Mapping[str, type] | None = None) -> Parsed | None:
    """`node` as a `cls`, or None after adding every problem to `problems`.

    `where` is the dotted key of `node`; `choices` maps dotted keys to the dataclass that replaces the declared one.
    """
    count_before = len(problems)
    if not isinstance(node, Mapping):
        problems.append(f"{where}={format_value(node)}: expected a group of settings, found {name_kind(node)}")
        return None
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {get_field_key(field): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for key in node:
        if key not in fields:
            problems.append(describe_unknown_key(join_key(where, key), [join_key(where, name) for name in fields]))
    for key, field in fields.items():
        full = join_key(where, key)
        hint = (choices or {}).get(full, hints[field.name])
        value = node.get(key, MISSING)
        if value is MISSING or value == "???":
            problems.append(f"{full}: missing; give it with {full}=…")
        else:
            values[field.name] = convert(hint, value, full, problems, choices)
    return cls(**values) if len(problems) == count_before else None


def convert(hint: Any, value: Any, where: str, problems: list[str], choices: Mapping[str, type] | None = None) -> Any:
    """`value` as the type `hint`. Adds to `problems` if it does not fit."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin is typing.Annotated:
        inner_hint, *rules = get_args(hint)
        if value == "" and MayBeEmpty() in rules:
            return value
        count_before = len(problems)
        converted = convert(inner_hint, value, where, problems, choices)
        for rule in rules:
            if (
                isinstance(rule, Range)
                and len(problems) == count_before
                and isinstance(converted, (int, float))
                and (rule_text := rule.broken_by(converted))
            ):
                problems.append(f"{where}={format_value(value)}: must be {rule_text}")
        return converted
    if origin in (Union, types.UnionType):
        return convert_union(hint, value, where, problems, choices)
    if origin is Literal:
        options = get_args(hint)
        if value not in options or isinstance(value, bool):
            problems.append(f"{where}={format_value(value)}: not one of {', '.join(options)}{suggest_nearest(str(value), options)}")
        return value
    if origin is list:
        if not isinstance(value, (list, tuple)):
            problems.append(
                f"{where}={format_value(value)}: expected a list, as in {where}=[{format_value(value)}], found {name_kind(value)}"
            )
            return None
        return [convert(get_args(hint)[0], item, f"{where}[{i}]", problems, choices) for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            problems.append(
                f"{where}={format_value(value)}: expected names with values, as in {where}={{name: value}}, found {name_kind(value)}"
            )
            return None
        return {key: to_plain(inner_hint) for key, inner_hint in value.items()}
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, where, problems, choices)
    return convert_scalar(hint, value, where, problems)


def convert_union(hint: Any, value: Any, where: str, problems: list[str], choices: Mapping[str, type] | None) -> Any:
    """`value` as the first member of a union that fits. If none fits, adds the problem of the closest member."""
    members = [member for member in get_args(hint) if member is not type(None)]
    if value is None:
        if len(members) == len(get_args(hint)):
            problems.append(f"{where}: must not be null")
        return None
    if value == "None" and len(members) < len(get_args(hint)):
        # A sweep of W&B also writes this for a null in its YAML.
        problems.append(f'{where}=None: is Python\'s word; type {where}=null ("null", with the quotes, in the YAML of wandb sweep)')
        return None
    attempts: list[list[str]] = []
    for member in members:
        problems_of_member: list[str] = []
        converted = convert(member, value, where, problems_of_member, choices)
        if not problems_of_member:
            return converted
        attempts.append(problems_of_member)
    if isinstance(value, str) and get_origin(members[0]) is list and len(members) > 1:
        # The string may be meant as the word, or as the only item of a list.
        problems.append(f"{attempts[1][0]}; or a list, as in {where}=[{value}]")
    else:
        problems.extend(attempts[0])
    return None


def convert_scalar(hint: type, value: Any, where: str, problems: list[str]) -> Any:
    """A bool, int, float or str, without conversions that hide a mistake ("true" is not a number, 0.5 is not a count)."""
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            problems.append(f"{where}={value}: must be a finite number")
        return float(value)
    if hint is str and isinstance(value, str) and not value.strip():
        problems.append(f"{where}: is empty; give it a value, or leave it out")
        return None
    if type(value) is hint:
        return value
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    advice = f"; quote it to have text: {where}='\"{value}\"'" if hint is str and isinstance(value, (int, float)) else ""
    problems.append(f"{where}={format_value(value)}: expected {names.get(hint, hint.__name__)}, found {name_kind(value)}{advice}")
    return None


def join_key(where: str, key: Any) -> str:
    """The dotted key of a setting below `where`."""
    return f"{where}.{key}" if where else str(key)


def format_value(value: Any) -> str:
    """A value in the form of the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(format_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{…}"
    return str(value)


def name_kind(value: Any) -> str:
    """The kind of a value in words."""
    if value is None:
        return "null"
    names = {bool: "true/false", int: "a whole number", float: "a number", str: f"text {value!r}", list: "a list", dict: "a group"}
    return names.get(type(value), type(value).__name__)
