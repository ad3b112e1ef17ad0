"""`lexalign schema`: the JSON schema of the settings, made of the dataclasses in `lexalign.config.schema`, for editors and programs."""

import ast
import dataclasses
import inspect
import json
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from lexalign.config import schema
from lexalign.config.parsing import Range, get_field_key, suggest_nearest

DIALECT = "https://json-schema.org/draft/2020-12/schema"
INTERPOLATION = {"type": "string", "pattern": r"\$\{|^\?\?\?$", "description": "A value that Hydra fills in."}
SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean"}
USAGE = """lexalign schema [GROUP]

Prints the JSON schema of an experiment's settings: of files that begin with `# @package _global_`, and of what a run records in
config.yaml. With the name of a group (data, model, hardware, …) it prints the schema of a file in that group's folder.

  lexalign schema > lexalign.schema.json
  lexalign schema data > data.schema.json

A file names its schema in a first line for the editor: # yaml-language-server: $schema=lexalign.schema.json"""


def main(words: Sequence[str]) -> int:
    """Print the schema that the words ask for; the exit code."""
    groups = list_groups()
    if any(word in ("-h", "--help") for word in words):
        print(USAGE)
        return 0
    unknown = [word for word in words if word not in groups]
    if unknown or len(words) > 1:
        problem = f"schema {' '.join(words)}: name one group of {', '.join(groups)}, or none"
        print(f"{problem}{suggest_nearest(unknown[0], groups) if unknown else ''}", file=sys.stderr)
        return 2
    print(json.dumps(make_schema(words[0] if words else None), indent=2, ensure_ascii=False))
    return 0


def list_groups() -> dict[str, type]:
    """The groups of settings that are dataclasses, by key."""
    hints = typing.get_type_hints(schema.Experiment)
    kinds = {key: [hint, *get_args(hint)] for key, hint in hints.items()}
    return {key: cls for key, options in kinds.items() for cls in options if dataclasses.is_dataclass(cls) and isinstance(cls, type)}


def make_schema(group: str | None = None) -> dict[str, Any]:
    """The schema of a whole experiment, or of the files of one group. No setting is required: a file says only what is its own."""
    classes: dict[str, type] = {}
    root = schema.Experiment if group is None else list_groups()[group]
    described = describe_class(root, classes)
    definitions: dict[str, Any] = {}
    while missing := [name for name in classes if name not in definitions]:
        for name in missing:
            definitions[name] = describe_class(classes[name], classes)
    described["properties"]["defaults"] = {"type": "array", "description": "Hydra's list of the files that this one stands on."}
    if group is None:
        described["properties"]["hydra"] = {"type": "object", "description": "Hydra's own settings."}
        described["properties"]["evaluate"]["anyOf"].append({"type": "boolean"})
    title = "Settings of an experiment of LexAlign" if group is None else f"A file of the group {group} of LexAlign"
    return {"$schema": DIALECT, "title": title, **described, "$defs": {"interpolation": INTERPOLATION, **definitions}}


def describe_class(cls: type, classes: dict[str, type]) -> dict[str, Any]:
    """A dataclass as an object; the dataclasses it refers to are added to `classes`, by name."""
    if cls is schema.Method:
        return describe_methods(classes)
    described = {"type": "object", "properties": describe_fields(cls, classes), "additionalProperties": False}
    return {"description": inspect.cleandoc(cls.__doc__ or ""), **described}


def describe_fields(cls: type, classes: dict[str, type]) -> dict[str, Any]:
    """Each setting of a dataclass: its type and range, and what it means."""
    hints, docs = typing.get_type_hints(cls, include_extras=True), read_field_docs(cls)
    properties = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        described = describe_type(hints[field.name], classes)
        properties[get_field_key(field)] = {
            "description": docs.get(field.name, ""),
            "anyOf": [*described.get("anyOf", [described]), {"$ref": "#/$defs/interpolation"}],
        }
    return properties


def describe_methods(classes: dict[str, type]) -> dict[str, Any]:
    """The settings of all our methods, each file those of its `settings_class`; a user's own class may declare others."""
    methods = {f"lexalign.config.schema.{cls.__name__}": describe_fields(cls, classes) for cls in walk_subclasses(schema.Method)}
    merged: dict[str, Any] = {}
    for fields in methods.values():
        for key, described in fields.items():
            same = merged.setdefault(key, {"description": described["description"], "anyOf": []})
            same["anyOf"] += [option for option in described["anyOf"] if option not in same["anyOf"]]
    own_class = {"required": ["settings_class"], "properties": {"settings_class": {"not": {"enum": list(methods)}}}}
    rules: list[dict[str, Any]] = [{"if": {"not": own_class}, "then": {"propertyNames": {"enum": list(merged)}}}]
    for name, fields in methods.items():
        condition = {"required": ["settings_class"], "properties": {"settings_class": {"const": name}}}
        rules.append({"if": condition, "then": {"propertyNames": {"enum": list(fields)}}})
    return {"type": "object", "description": inspect.cleandoc(schema.Method.__doc__ or ""), "properties": merged, "allOf": rules}


def walk_subclasses(cls: type) -> Iterator[type]:
    """A class and all that inherit from it."""
    yield cls
    children: list[type] = cls.__subclasses__()
    for child in children:
        yield from walk_subclasses(child)


def describe_type(hint: Any, classes: dict[str, type]) -> dict[str, Any]:
    """A type of a field as JSON schema."""
    origin = get_origin(hint)
    if hint is Any:
        return {}
    if origin is typing.Annotated:
        inner, *rules = get_args(hint)
        return describe_type(inner, classes) | {key: value for rule in rules if isinstance(rule, Range) for key, value in list_bounds(rule)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [describe_type(member, classes) for member in get_args(hint)]}
    if hint is type(None):
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(get_args(hint))}
    if origin is list:
        return {"type": "array", "items": describe_type(get_args(hint)[0], classes)}
    if origin is dict or hint is dict:
        return {"type": "object"}
    if dataclasses.is_dataclass(hint):
        cls = typing.cast(type, hint)
        classes[cls.__name__] = cls
        return {"$ref": f"#/$defs/{cls.__name__}"}
    return {"type": SCALARS[hint]}


def list_bounds(bounds: Range) -> Iterator[tuple[str, float]]:
    """A range in the words of JSON schema."""
    names = {"above": "exclusiveMinimum", "least": "minimum", "below": "exclusiveMaximum", "most": "maximum"}
    for name, keyword in names.items():
        if (value := getattr(bounds, name)) is not None:
            yield keyword, value


def read_field_docs(cls: type) -> dict[str, str]:
    """The text below each field of a dataclass, in one line; fields that are inherited included."""
    docs: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                docs[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return docs
