"""`lexalign explain train.learning_rate stage=align …`: a setting's value, where it was set, and what it means. Nothing is run."""

import sys
from collections.abc import Sequence

from lexalign.commands.json_schema import make_schema
from lexalign.compat import get_hydra_parser
from lexalign.config.command_line import arrange_words
from lexalign.config.compose import compose
from lexalign.config.loading import Sources, list_keys
from lexalign.config.origins import explain
from lexalign.config.parsing import describe_unknown_key
from lexalign.errors import ConfigError

USAGE = """lexalign explain KEY [overrides]      (or: python run.py [overrides] --explain KEY)

Prints the value that a setting has with these overrides, which file or word set it, and what the other files say.

  lexalign explain train.learning_rate stage=align method=gdpo model.path=my/model"""


def main(words: Sequence[str]) -> int:
    """Explain the setting that the first word names; the exit code."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    key, *rest = words
    try:
        args = get_hydra_parser().parse_args(arrange_words(rest))
        sources = Sources((args.config_dir,) if args.config_dir else ())
        compose(args.overrides, sources)  # refuses what does not compose
        text = explain(key, args.overrides, sources)
        if text is None:
            settings = [name for name in list_keys(sources.compose(args.overrides)) if not name.startswith("hydra")]
            raise ConfigError(describe_unknown_key(key, settings))
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return ConfigError.exit_code
    print(text)
    if description := find_description(key):
        print(f"  {description}")
    return 0


def find_description(key: str) -> str | None:
    """What the schema says of a setting; None where it says nothing (a method's own)."""
    whole = make_schema()
    node = whole
    for name in key.split("."):
        while "$ref" in node:
            node = whole["$defs"][node["$ref"].rpartition("/")[2]]
        options = [node, *node.get("anyOf", [])]
        options = [whole["$defs"][o["$ref"].rpartition("/")[2]] if "$ref" in o else o for o in options]
        node = next((o["properties"][name] for o in options if name in o.get("properties", {})), {})
    return node.get("description")
