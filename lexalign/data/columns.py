"""Our columns that an experiment reads, and their names in the user's data. No heavy import."""

import dataclasses

from lexalign.config.parsing import suggest_nearest
from lexalign.config.schema import Experiment

SFT_SHAPES = {"text": ("text",), "messages": ("messages",), "prompt/completion": ("prompt", "completion")}
OPTIONAL_COLUMNS = ("rejected_belief", "probabilities")
ROW_COLUMNS = ("tools", "system", "template_arguments")
"""Optional columns that change the rendering of a row."""
BELIEF_COLUMNS = ("belief", "rejected_belief", "probabilities", "group")


def list_named(experiment: Experiment) -> dict[str, str]:
    """Our name -> the user's name, for every column that the settings name."""
    columns = {field.name: getattr(experiment.data.columns, field.name) for field in dataclasses.fields(experiment.data.columns)}
    return {our_name: their_name for our_name, their_name in columns.items() if their_name is not None}


def find_sft_shape(experiment: Experiment) -> str:
    """The shape of the sft rows; raises ValueError if the named columns fit no shape, or more than one."""
    column_names = list_named(experiment)
    shapes = [shape for shape, columns in SFT_SHAPES.items() if set(columns) <= set(column_names)]
    if len(shapes) != 1:
        shape_note = f"they make {' and '.join(shapes)} at once" if shapes else f"they are {', '.join(column_names) or 'none'}"
        raise ValueError(
            f"data.columns: sft reads text, messages, or prompt and completion, and {shape_note}; "
            "name the columns of one shape and set the others to null (data=text, data=messages and data=instructions do)"
        )
    return shapes[0]


def list_wanted_columns(experiment: Experiment) -> dict[str, str]:
    """Our name -> the user's name of the columns that this experiment reads; raises ValueError if a needed column has no name."""
    column_names = list_named(experiment)
    if experiment.method is None:
        return column_names
    if experiment.stage.name == "sft":
        shape = find_sft_shape(experiment)
        column_order = (*SFT_SHAPES[shape], *(ROW_COLUMNS if shape != "text" else ()))
    else:
        lacking = [name for name in experiment.method.needs.columns if name not in column_names]
        if lacking:
            raise ValueError(
                f"data.columns.{lacking[0]}=null: method={experiment.method.name} reads {', '.join(experiment.method.needs.columns)}; "
                f"name your column with data.columns.{lacking[0]}=<column>, or choose data that have it"
            )
        needs = experiment.method.needs.columns
        answer_columns = () if "label" in needs else ("completion",)  # the answer that responses are compared with
        belief_columns = BELIEF_COLUMNS if "chosen" in needs else ()  # a belief is written before a response
        column_order = (*needs, *answer_columns, *belief_columns, *ROW_COLUMNS)
    return {name: column_names[name] for name in dict.fromkeys(column_order) if name in column_names}


def list_needed_columns(experiment: Experiment) -> list[str]:
    """The columns that every row must have."""
    if experiment.stage.name == "align" and experiment.method is not None:
        return experiment.method.needs.columns
    optional_columns = OPTIONAL_COLUMNS if experiment.method is None else ()
    return [name for name in list_wanted_columns(experiment) if name not in (*optional_columns, *ROW_COLUMNS)]


def suggest_column(our_name: str, their_name: str, columns: list[str]) -> str:
    """Advice on what to type instead of a column that is missing."""
    nearest = suggest_nearest(their_name, columns).removeprefix("; did you mean ").rstrip("?")
    return f"; type data.columns.{our_name}={nearest or '<column>'}"
