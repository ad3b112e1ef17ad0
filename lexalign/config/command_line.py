"""Arrange the words of a command line as Hydra reads them: its options first, then the settings."""

import re
import sys
from argparse import Action
from collections.abc import Mapping, Sequence
from pathlib import Path

from lexalign.compat import get_hydra_parser
from lexalign.config.aliases import rename_override
from lexalign.config.overrides import get_key, keep_last
from lexalign.config.parsing import suggest_nearest
from lexalign.errors import ConfigError

DASHED = re.compile(r"--?[+~]{0,2}[A-Za-z_][\w./@]*=")
"""A setting in the form of an option: `--seed=1`, as the agent of W&B writes it."""
FOLDERS = ("output_dir", "store", "sweep.folder")
"""Settings that name a folder that is made if it is missing."""
REFUSED = {
    "--config-name": "conf/config.yaml is the one root; write an experiment file and type experiment=<name>",
    "--config-path": "conf/config.yaml is the one root; write an experiment file and type experiment=<name>",
    "--experimental-rerun": "would read a pickle, which can run code; type reproduce=<run folder>",
}
"""Options of Hydra that are refused, with the advice for each."""


def arrange_words(words: Sequence[str]) -> list[str]:
    """Hydra's options, then the settings. `--seed=1` becomes `seed=1`, `hydra.mode=MULTIRUN` becomes `-m`.

    Prints on stderr which words it changed. Raises ConfigError with every word that is neither an option nor a setting.
    """
    actions = get_hydra_parser()._option_string_actions
    options: list[str] = []
    settings: list[str] = []
    dashed_settings: list[str] = []
    problems: list[str] = []
    words_left = list(words)
    while words_left:
        word = words_left.pop(0)
        name, equals, _ = word.partition("=")
        if not word.startswith("-") or word == "-":
            settings.append(word)
        elif name in actions:
            problem = take_option(word, actions[name], words_left, options)
            problems += [problem] if problem else []
        elif DASHED.match(word):
            dashed_settings.append(word)
            settings.append(word.lstrip("-"))
        else:
            problems.append(explain_unknown_option(word, words_left, actions))
    if dashed_settings:
        print(f"{', '.join(dashed_settings)}: read as {', '.join(word.lstrip('-') for word in dashed_settings)}", file=sys.stderr)
    settings = [rename_override(expand_home(word)) for word in read_mode(settings, options, problems)]
    if problems:
        raise ConfigError(problems)
    settings, notes = keep_last(settings)
    for note in notes:
        print(note, file=sys.stderr)
    return [*options, *settings]


def expand_home(setting: str) -> str:
    """`output_dir=~/runs` with the home folder instead of the ~, as a shell does for other words."""
    key, _, value = setting.partition("=")
    return f"{key}={Path(value).expanduser()}" if key in FOLDERS and value.startswith("~") else setting


def take_option(word: str, action: Action, waiting: list[str], options: list[str]) -> str | None:
    """Move an option with its value to `options`; return a problem if the value is missing or wrong, or the option is refused."""
    refused_option = next((name for name in action.option_strings if name in REFUSED), None)
    takes_value = action.nargs != 0
    value = [waiting.pop(0)] if takes_value and "=" not in word and waiting and is_value(waiting[0], action) else []
    if refused_option is not None:
        return f"{refused_option}: {REFUSED[refused_option]}"
    if takes_value and "=" not in word and not value and action.nargs != "?":
        value_text = f"one of {', '.join(action.choices)}" if action.choices else "a value"
        return f"{word}: needs {value_text} after it"
    if action.choices and (choice := value[0] if value else word.partition("=")[2]) and choice not in action.choices:
        return f"{word}: {choice} is not one of {', '.join(action.choices)}"
    options.extend([word, *value])
    return None


def is_value(word: str, action: Action) -> bool:
    """Whether the word after an option is its value."""
    return word in (action.choices or ()) if action.nargs == "?" else not word.startswith("-")


def explain_unknown_option(word: str, waiting: list[str], known: Mapping[str, Action]) -> str:
    """The message for an option that does not exist. Removes its value from `waiting`."""
    key = word.lstrip("-")
    if waiting and not waiting[0].startswith("-") and "=" not in waiting[0]:
        return f"{word} {waiting[0]}: settings are typed without dashes; type {key}={waiting.pop(0)}"
    nearest = suggest_nearest(word, [name for name in known if name not in REFUSED])
    return f"{word}: is no option{nearest or '; settings are typed as key=value, and lexalign --help shows them'}"


def read_mode(settings: Sequence[str], options: list[str], problems: list[str]) -> list[str]:
    """The settings without `hydra.mode`, which becomes `-m` in `options`."""
    modes = [word for word in settings if get_key(word) == "hydra.mode"]
    is_sweep = any(option in ("-m", "--multirun") for option in options)
    for word in modes:
        mode = word.partition("=")[2].strip("'\"").rpartition(".")[2].upper()
        if mode not in ("RUN", "MULTIRUN"):
            problems.append(f"{word}: is RUN or MULTIRUN; type -m for a sweep, and nothing for a run")
        elif mode == "RUN" and is_sweep:
            problems.append(f"{word}: -m asks for a sweep; leave one of them out")
        elif mode == "MULTIRUN" and not is_sweep:
            options.append("-m")
            is_sweep = True
    return [word for word in settings if word not in modes]
