"""Limits of a YAML file: its size, its depth, and its number of values after its aliases are expanded."""

from pathlib import Path

import yaml

from lexalign.errors import ConfigError

MOST_BYTES = 1_000_000
MOST_NODES = 100_000
MOST_DEPTH = 60


def refuse_hostile_file(path: Path) -> None:
    """Raise ConfigError for a YAML file that would take too much memory or time to read."""
    if path.is_file() and (problem := find_file_problem(path)):
        raise ConfigError(problem)


def find_file_problem(path: Path) -> str | None:
    """Return why a YAML file is too large, too deep, or grows too much through its aliases; None if it may be read."""
    if path.stat().st_size > MOST_BYTES:
        return f"{path}: is larger than {MOST_BYTES:,} bytes; settings are not data"
    text = path.read_text(encoding="utf-8", errors="replace")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent))
            depth -= isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent))
            if depth > MOST_DEPTH:
                return f"{path}:{event.start_mark.line + 1}: is nested more than {MOST_DEPTH} deep"
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None  # Hydra reports the error
    if root is None:
        return None
    sizes: dict[int, float] = {}

    def measure(node: yaml.Node) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = float("inf")  # an alias inside its own node has no end
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            sizes[id(node)] = 1 + (sum(map(measure, parts)) if isinstance(node, yaml.CollectionNode) else 0)
        return sizes[id(node)]

    return f"{path}: its aliases (*name) grow to more than {MOST_NODES:,} values" if measure(root) > MOST_NODES else None
