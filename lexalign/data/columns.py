"""Which of our columns an experiment reads, and the names they have in the user's data. No heavy import."""

import dataclasses

from lexalign.config.parsing import suggest_nearest
from lexalign.config.schema import Experiment

SFT_SHAPES = {"text": ("text",), "messages": ("messages",), "prompt/completion": ("prompt", "completion")}
OPTIONAL_COLUMNS = ("rejected_belief", "probabilities")
ROW_COLUMNS = ("tools", "system", "template_arguments")
"""What a row may say of its own rendering; any row may lack it."""
BELIEF_COLUMNS = ("belief", "rejected_belief", "probabilities", "group")


def list_named(experiment: Experiment) -> dict[str, str]:
    """Our name -> the user's name, for every column the data are said to have."""
    columns = {field.name: getattr(experiment.data.columns, field.name) for field in dataclasses.fields(experiment.data.columns)}
    return {ours: theirs for ours, theirs in columns.items() if theirs is not None}


def find_sft_shape(experiment: Experiment) -> str:
    """The one shape of the sft rows; raises ValueError when the named columns make none, or more than one."""
    have = list_named(experiment)
    shapes = [shape for shape, columns in SFT_SHAPES.items() if set(columns) <= set(have)]
    if len(shapes) != 1:
        what = f"they make {' and '.join(shapes)} at once" if shapes else f"they are {', '.join(have) or 'none'}"
        raise ValueError(
            f"data.columns: sft reads text, messages, or prompt and completion, and {what}; "
            "name the columns of one shape and set the others to null (data=text, data=messages and data=instructions do)"
        )
    return shapes[0]


def list_wanted_columns(experiment: Experiment) -> dict[str, str]:
    """Our name -> the user's name of the columns this experiment reads; raises ValueError where a needed one is unnamed."""
    have = list_named(experiment)
    if experiment.method is None:
        return have
    if experiment.stage.name == "sft":
        shape = find_sft_shape(experiment)
        wanted = (*SFT_SHAPES[shape], *(ROW_COLUMNS if shape != "text" else ()))
    else:
        missing = [name for name in experiment.method.needs.columns if name not in have]
        if missing:
            raise ValueError(
                f"data.columns.{missing[0]}=null: method={experiment.method.name} reads {', '.join(experiment.method.needs.columns)}; "
                f"name your column with data.columns.{missing[0]}=<column>, or choose data that have it"
            )
        needs = experiment.method.needs.columns
        measured = () if "label" in needs else ("completion",)  # the answer to be measured against
        beliefs = BELIEF_COLUMNS if "chosen" in needs else ()  # a belief stands before a response
        wanted = (*needs, *measured, *beliefs, *ROW_COLUMNS)
    return {name: have[name] for name in dict.fromkeys(wanted) if name in have}


def list_needed_columns(experiment: Experiment) -> list[str]:
    """Which of the wanted columns every row must have."""
    if experiment.stage.name == "align" and experiment.method is not None:
        return experiment.method.needs.columns
    optional = OPTIONAL_COLUMNS if experiment.method is None else ()
    return [name for name in list_wanted_columns(experiment) if name not in (*optional, *ROW_COLUMNS)]


def suggest_column(ours: str, theirs: str, columns: list[str]) -> str:
    """What to type instead of a column that is not there."""
    close = suggest_nearest(theirs, columns).removeprefix("; did you mean ").rstrip("?")
    return f"; type data.columns.{ours}={close or '<column>'}"
