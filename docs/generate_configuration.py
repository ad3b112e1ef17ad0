"""Write docs/configuration.md: every setting with its type, range, default and meaning.

Types, ranges and meanings come from the dataclasses in lexalign/config/schema, values from conf/. Run it after a change of either:

    python docs/generate_configuration.py

tests/test_docs.py fails while the committed page is older than the code.
"""

import dataclasses
import itertools
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from lexalign.commands.json_schema import read_field_docs
from lexalign.config import schema
from lexalign.config.compose import compose
from lexalign.config.parsing import Range, TypedOnly, get_field_key

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "configuration.md"
GROUPS = ("stage", "method", "adapter", "model", "data", "hardware", "tracking", "preflight", "cache", "sweep", "experiment")
"""Groups of files below conf/, in the order of the page. `tuned` and `hydra` are chosen for the user."""
HEAD = """# Configuration

<!-- Written by docs/generate_configuration.py from lexalign/config/schema and conf/. Do not edit it by hand. -->

Every setting has a key of the form `group.name` and is typed as `group.name=value`. Its value comes from these places, and a later
one wins:

1. `conf/config.yaml`;
2. the files of the groups that are chosen (`conf/<group>/<option>.yaml`);
3. `conf/tuned/<model>_<method>.yaml`, where such a file exists: values that were measured for that model under that method;
4. the experiment's file (`experiment=<name>`);
5. what you type.

`python run.py … --cfg job` prints the settings that a command line comes to. `lexalign explain` says where one value was set, and what the
other files say:

```bash
lexalign explain train.learning_rate stage=align method=gdpo
```

`lexalign schema` prints a JSON schema of these settings, for editors (yaml-language-server) and programs. With the name of a group it
is the schema of a file in that group's folder:

```bash
lexalign schema > lexalign.schema.json
lexalign schema data > data.schema.json
```

Settings that are marked **typed only** are refused in a file of `--config-dir` ([Security](security.md)). An unknown key, a wrong
type and a value outside its range are
refused with exit code 2, and so is an option that the run would not read.

The defaults below are those of `python run.py` without words, before step 3. "(method)" and "(stage)" say that the chosen method or stage
sets the value. Text with commas or spaces needs quotes inside
quotes: `'data.system="Be brief, please"'`. A list is `[a,b]`, nothing is `null`.
"""


def list_options(group: str) -> list[str]:
    """The options of a group of conf/: its files, those in its folders included (`tiny/sft`); files that others build on are left out."""
    files = sorted((CONF / group).rglob("*.yaml"))
    return [file.relative_to(CONF / group).with_suffix("").as_posix() for file in files if not file.name.startswith("_")]


def describe_type(hint: Any) -> tuple[str, str]:
    """A type in words, and the range that comes with it ("" without one)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        words, inner = describe_type(arguments[0])
        ranges = [describe_range(rule) for rule in arguments[1:] if isinstance(rule, Range)]
        return words, ", ".join(filter(None, [inner, *ranges]))
    if origin in (typing.Union, types.UnionType):
        parts = [describe_type(part) for part in arguments]
        return " or ".join(words for words, _ in parts), ", ".join(dict.fromkeys(text for _, text in parts if text))
    if origin is Literal:
        return ", ".join(f"`{option}`" for option in arguments), ""
    if origin is list:
        words, inner = describe_type(arguments[0])
        return f"list of {words}", inner
    if origin is dict or hint is dict:
        return "keys with values", ""
    names = {str: "text", int: "integer", float: "number", bool: "`true`, `false`", type(None): "`null`", Any: "groups of settings"}
    return names.get(hint, getattr(hint, "__name__", str(hint))), ""


def describe_range(rule: Range) -> str:
    """A range in words."""
    bounds = (("above", rule.above), ("at least", rule.least), ("below", rule.below), ("at most", rule.most))
    return " and ".join(f"{word} {bound:g}" if bound < 1e6 else f"{word} {bound}" for word, bound in bounds if bound is not None)


def find_group(hint: Any) -> type | None:
    """The dataclass that a field holds; None for a plain value."""
    choices = [part for part in (hint, *typing.get_args(hint)) if isinstance(part, type) and dataclasses.is_dataclass(part)]
    return typing.cast(type, choices[0]) if choices else None


def walk_settings(cls: type, where: str) -> Iterator[tuple[str, str, Any]]:
    """(key, meaning, type) of every plain setting of a dataclass and of the groups in it."""
    hints, meanings = typing.get_type_hints(cls, include_extras=True), read_field_docs(cls)
    for field in dataclasses.fields(cls):
        key = f"{where}.{get_field_key(field)}".lstrip(".")
        group = find_group(hints[field.name])
        if group is not None:
            yield from walk_settings(group, key)
        else:
            yield key, meanings[field.name], hints[field.name]


def select(tree: dict[str, Any], key: str) -> Any:
    """The value at a dotted key; None where a group on the way is null."""
    node: Any = tree
    for name in key.split("."):
        node = node[name] if isinstance(node, dict) and name in node else None
    return node


def format_value(value: Any) -> str:
    """A default as one types it."""
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "see its file"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`" if str(value) else '`""`'


def escape(text: str) -> str:
    """Text that is safe in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def write_row(key: str, meaning: str, hint: Any, default: str) -> str:
    """One row of a table of settings."""
    words, bounds = describe_type(hint)
    marks = [rule.because for rule in getattr(hint, "__metadata__", ()) if isinstance(rule, TypedOnly)]
    meaning += "".join(f" **Typed only**: {because}." for because in marks)
    return f"| `{key}` | {words}{f'; {bounds}' if bounds else ''} | {default} | {escape(meaning)} |"


TABLE = ["| key | type and range | default | meaning |", "|---|---|---|---|"]


def read_comment(file: Path) -> str:
    """The comment at the head of a YAML file, Hydra's own line left out."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    return " ".join(line.lstrip("# ").strip() for line in lines if not line.startswith("# @package"))


def write_options(group: str) -> Iterator[str]:
    """The options of a group, with the comment of each file."""
    comments = {name: read_comment(CONF / group / f"{name}.yaml") for name in list_options(group)}
    if any(comments.values()):
        yield from ("| option | what it is |", "|---|---|")
        yield from (f"| `{group}={name}` | {escape(comment)} |" for name, comment in comments.items())
    else:
        yield "Options: " + ", ".join(f"`{group}={name}`" for name in comments) + "."
    yield ""


def write_run(tree: dict[str, Any]) -> Iterator[str]:
    """The settings of the run as a whole."""
    yield from ("## The run", "", *TABLE)
    hints, meanings = typing.get_type_hints(schema.Experiment, include_extras=True), read_field_docs(schema.Experiment)
    raw = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    for field in dataclasses.fields(schema.Experiment):
        if find_group(hints[field.name]) is None:
            yield write_row(field.name, meanings[field.name], hints[field.name], format_value(raw.get(field.name, tree[field.name])))
    yield ""


def write_method(tree: dict[str, Any]) -> Iterator[str]:
    """The settings that every method has, then those of each method with what its file sets."""
    yield from ("Settings that every method has; its file sets them:", "", *TABLE)
    shared = {field.name for field in dataclasses.fields(schema.Method)}
    yield from (write_row(key, meaning, hint, "(method)") for key, meaning, hint in walk_settings(schema.Method, "method"))
    yield ""
    for name in list_options("method"):
        node = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text(encoding="utf-8"))
        settings = getattr(schema, str(node["method"]["settings_class"]).rpartition(".")[2])
        yield from (f"### `method={name}`", "", f"{' '.join((settings.__doc__ or '').split())} Stage `{node['method']['stage']}`.", "")
        own = [row for row in walk_settings(settings, "method") if row[0].split(".")[1] not in shared and row[0] != "method._target_"]
        if own:
            yield from TABLE
            yield from (write_row(key, meaning, hint, format_value(select(node, key))) for key, meaning, hint in own)
            yield ""
        if changed := node.get("train"):
            yield f"It also sets {', '.join(f'`train.{key}={value}`' for key, value in changed.items())}."
            yield ""


def write_page() -> str:
    """The whole page."""
    tree = compose(["~tuned"]).tree
    hints = typing.get_type_hints(schema.Experiment)
    lines = [HEAD, *write_run(tree)]
    rest = [field.name for field in dataclasses.fields(schema.Experiment) if find_group(hints[field.name]) and field.name not in GROUPS]
    for group in (*GROUPS[:-1], *rest, "experiment"):
        lines += [f"## {group}", ""]
        cls = find_group(hints[group]) if group in hints else None
        if cls is not None and cls.__doc__ and group != "method":
            lines += [" ".join(cls.__doc__.split()), ""]
        if (CONF / group).is_dir():
            lines += list(write_options(group))
        if group == "method":
            lines += list(write_method(tree))
        elif cls is not None:
            lines += TABLE
            pinned = {"stage._target_", "stage.name"}
            for key, meaning, hint in walk_settings(cls, group):
                lines.append(write_row(key, meaning, hint, "(stage)" if key in pinned else format_value(select(tree, key))))
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
    print(f"wrote {PAGE}")
