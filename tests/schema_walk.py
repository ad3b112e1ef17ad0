"""The schema seen from outside: every setting with its dotted key."""

import dataclasses
import typing
from collections.abc import Iterator

from lexalign.config.parsing import get_field_key
from lexalign.config.schema import Experiment, Method


def leaves(cls: type, where: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key in YAML, name of the field) of every setting below a dataclass."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key = f"{where}.{get_field_key(field)}".lstrip(".")
        inner = [hint for hint in (hints[field.name], *typing.get_args(hints[field.name])) if dataclasses.is_dataclass(hint)]
        if inner:
            yield from leaves(typing.cast(type, inner[0]), key)
        else:
            yield key, field.name


def everything() -> dict[str, str]:
    """Every setting of every experiment, each method's own knobs included."""
    found = dict(leaves(Experiment))
    waiting = Method.__subclasses__()
    while waiting:
        knobs = waiting.pop()
        found |= dict(leaves(knobs, "method"))
        waiting += knobs.__subclasses__()
    return found
