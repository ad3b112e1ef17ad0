"""Read typed overrides with Hydra's grammar, and find the keys that they set."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from lexalign.config.loading import CONF_ONLY, Sources


def parse_overrides(overrides: Sequence[str], sources: Sources = CONF_ONLY) -> list[Override]:
    """The overrides that can be read. `lexalign.config.compose.load_tree` reports the others."""
    parser = OverridesParser.create(config_loader=sources.loader)
    parsed = []
    for override in overrides:
        try:
            parsed += parser.parse_overrides([override])  # unlike parse_override, this gives glob(…) its loader
        except HydraException:
            continue
    return parsed


def get_key(override: str) -> str:
    """The dotted key that an override sets."""
    return override.split("=", 1)[0].lstrip("+~").split("@")[0]


def get_extensions(overrides: Sequence[str]) -> list[str]:
    """The packages in `extensions=[…]` on the command line."""
    lists = [value for o in parse_overrides(overrides) if o.key_or_group == "extensions" and isinstance(value := o.value(), list)]
    return [str(name) for names in lists for name in names]


def list_typed_keys(overrides: Sequence[str]) -> frozenset[str]:
    """Dotted keys of the settings and names of the groups that the user typed. A typed key that is ignored is an error."""

    def leaves(key: str, value: Any) -> Iterator[str]:
        if isinstance(value, Mapping):
            for name, item in value.items():
                yield from leaves(f"{key}.{name}", item)
        else:
            yield key

    return frozenset(key for o in parse_overrides(overrides) if not o.is_delete() for key in leaves(o.key_or_group, o.value()))


def keep_last(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The last override of each key, and a note on each repeated key. A script with "$@" may repeat keys."""
    last_positions = {get_key(override): index for index, override in enumerate(overrides)}
    notes = []
    for key in last_positions:
        words = [override for override in overrides if get_key(override) == key]
        if len(words) > 1:
            notes.append(f"{key}: is typed {len(words)} times ({', '.join(words)}); the last one is taken")
    return [override for index, override in enumerate(overrides) if last_positions[get_key(override)] == index], notes


def find_repeated(overrides: Sequence[str]) -> list[str]:
    """Problems with keys that were typed more than once: only the last value would count."""
    counts = Counter(get_key(override) for override in overrides)
    return [
        f"{key}: is given {count} times ({', '.join(o for o in overrides if get_key(o) == key)}); leave all but one out"
        for key, count in counts.items()
        if count > 1
    ]


def find_switched_off(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides of settings of `evaluate` that are typed with `evaluate=false` (or true), each with its problem: they contradict it."""
    switches = [parsed for override in overrides for parsed in parse_overrides([override]) if parsed.key_or_group == "evaluate"]
    switch = next((str(parsed.input_line) for parsed in switches if isinstance(parsed.value(), bool)), None)
    settings_below = [override for override in overrides if switch and get_key(override).startswith("evaluate.")]
    return {
        o: f"{get_key(o)}: {switch} stands for all of evaluate; type evaluate.enabled beside it instead, or leave one out"
        for o in settings_below
    }


def name_key(problem: str) -> str:
    """The key that a problem begins with."""
    return re.split(r"[=:\[]", problem, maxsplit=1)[0]


def drop_wrong(overrides: Sequence[str], problems: Sequence[str]) -> list[str]:
    """The overrides whose keys no problem names; empty if these are all overrides."""
    wrong_keys = {name_key(problem) for problem in problems}

    def overlap(a: str, b: str) -> bool:
        return f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")

    right_overrides = [override for override in overrides if not any(overlap(get_key(override), key) for key in wrong_keys)]
    return right_overrides if len(right_overrides) < len(overrides) else []


def find_wrong_choice(override: Override, sources: Sources) -> str | None:
    """The problem with a choice in a group, or None."""
    group, typed_text = override.key_or_group, str(override.input_line)
    if override.is_delete():
        return f"{typed_text}: a group cannot be taken away; leave it out, or choose one of {', '.join(sources.list_options(group))}"
    if override.is_add():
        return f"{typed_text}: every group has its place already; type {typed_text.lstrip('+')}"
    value = override.value()
    if value is None:
        return f"{typed_text}: leave {group} out, or choose one of {', '.join(sources.list_options(group))}"
    if not isinstance(value, str):
        return f"{typed_text}: choose one {group}, or sweep over several with -m {group}=a,b"
    return None if value in sources.list_options(group) else sources.describe_missing_option(group, value)
