"""Check the columns and beliefs of the data, also against the files, and options that nothing reads."""

import datetime
from collections.abc import Iterator
from pathlib import Path

from lexalign.config.paths import find_data
from lexalign.config.schema import Experiment
from lexalign.data import first_row
from lexalign.data.chat_template import CHAT_WORDS
from lexalign.data.columns import ROW_COLUMNS, find_sft_shape, list_needed_columns, list_wanted_columns, suggest_column

OF_TRAINING = frozenset({"train", "preflight", "adapter", "method"})
UNREAD = {
    "sft": frozenset({"download", "export", "chat"}),
    "align": frozenset({"download", "export", "chat"}),
    "download": OF_TRAINING | {"evaluate", "hardware", "export", "chat"},
    "evaluate": OF_TRAINING | {"download", "resume", "seed", "export", "chat"},
    "export": OF_TRAINING | {"download", "resume", "seed", "evaluate", "chat"},
    "chat": OF_TRAINING | {"download", "resume", "seed", "evaluate", "data", "export"},
}
"""Groups that a stage does not read."""
READ_BY_EXPORT = ("evaluate.batch_size", "evaluate.max_length")
INSTEAD = {
    ("evaluate", "seed"): "type evaluate.seed to draw other responses",
    ("chat", "seed"): "type chat.seed to draw other answers",
    ("chat", "data.system"): "type chat.system",
    ("export", "model.dtype"): "type export.dtype for the type of the exported weights",
    ("export", "hardware.precision"): "the model is compared as it was trained",
}
READ_BY_DOWNLOAD = ("model", "model.path", "model.revision", "data", "data.path", "data.revision", "data.format")


def check_columns(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    data, method, stage = experiment.data, experiment.method, experiment.stage.name
    if data.path is None or stage == "download" or (method is not None and method.stage != stage):
        return
    try:
        wanted_columns, needed_columns = list_wanted_columns(experiment), list_needed_columns(experiment)
    except ValueError as error:
        yield str(error)
        return
    if method is None and stage not in ("evaluate", "export"):
        return  # `check_stage_and_method` reports this
    for key in sorted(key for key in typed if key.startswith("data.columns.")):
        our_name = key.removeprefix("data.columns.")
        their_name = getattr(data.columns, our_name)
        if our_name not in wanted_columns and their_name is not None and method is not None:
            yield f"{key}={their_name}: is not read by method={method.name}, which reads {', '.join(wanted_columns)}; leave it out"
    place = find_data(data.path)
    if data.format == "hub" or place.kind not in ("file", "folder") or data.converter is not None:
        return
    for split in dict.fromkeys(filter(None, (data.split, data.eval_split))):
        try:
            row = first_row.read_first_row(data, place, split)
        except first_row.UnreadableFile as error:
            yield str(error)
            continue
        for our_name, their_name in wanted_columns.items():
            if our_name in ROW_COLUMNS and f"data.columns.{our_name}" not in typed:
                continue  # this column is optional in all rows
            if their_name not in row.columns and (our_name in needed_columns or split == data.split):
                yield (
                    f"data.columns.{our_name}={their_name}: {row.file} has no column {their_name!r}; it has {', '.join(row.columns)}"
                    f"{suggest_column(our_name, their_name, row.columns)}"
                    + (f", or data.columns.{our_name}=null to do without" if our_name not in needed_columns else "")
                )


def check_beliefs(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    data = experiment.data
    if experiment.stage.name in ("download", "chat") or (experiment.stage.name == "export" and data.path is None):
        return
    if data.columns.belief is None:
        if data.columns.probabilities is not None or data.columns.rejected_belief is not None:
            yield "data.columns.belief=null: probabilities and rejected_belief mean nothing without it; name the column of the belief"
        for key in sorted(typed & {"data.beliefs", "data.belief_format"}):
            yield f"{key}: is read only where data.columns.belief names a column; leave it out"
        return
    texts = data.beliefs
    if not texts or len(texts) < 2:
        yield "data.beliefs: list the texts of the beliefs, two or more, in the order of the shares: 'data.beliefs=[for,against]'"
        return
    repeated_texts = sorted({text for text in texts if texts.count(text) > 1})
    if repeated_texts:
        yield f"data.beliefs: {', '.join(repeated_texts)} stands there twice; name each belief once"
    if any(not text.strip() for text in texts):
        yield "data.beliefs: holds an empty text; write what the belief is"
    try:
        rendered_beliefs = [data.belief_format.format(index=i, text=text) for i, text in enumerate(texts)]
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        yield f"data.belief_format={data.belief_format}: only {{index}} and {{text}} can be filled in ({error!r})"
        return
    if len(set(rendered_beliefs)) < len(set(texts)):
        yield f"data.belief_format={data.belief_format}: renders two beliefs alike; use {{index}} or {{text}}"


def check_labels(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Refuse a label column in fine-tuning, which learns every completion, also undesirable ones."""
    label = experiment.data.columns.label
    if experiment.stage.name == "sft" and label is not None:
        yield (
            f"data.columns.label={label}: stage=sft would train the undesirable rows like the desirable ones; "
            "type stage=align method=kto, or data.columns.label=null where every row is to be trained"
        )


def check_rendering(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    """Check the template file and the template date, and refuse settings of a template that is not used."""
    data = experiment.data
    if data.template_date is not None:
        try:
            datetime.date.fromisoformat(data.template_date)
        except ValueError:
            yield f"data.template_date={data.template_date}: is no day; type it as in data.template_date=2026-11-29"
    if experiment.stage.name == "download":
        return
    if data.chat_template not in CHAT_WORDS and not Path(data.chat_template).expanduser().is_file():
        yield (
            f"data.chat_template={data.chat_template}: is no file with a chat template, nor one of {', '.join(CHAT_WORDS)}; "
            "type data.chat_template=auto to use the tokenizer's own"
        )
    unread_settings = ["system"] if data.system is not None else []
    unread_settings += ["template_arguments"] if data.template_arguments else []
    unread_settings += [name for name in ("template_date", "allow_template_changes") if f"data.{name}" in typed and getattr(data, name)]
    if data.chat_template == "never":
        yield from (f"data.{name}: is not read with data.chat_template=never; leave one of them out" for name in unread_settings)
    if experiment.stage.name != "sft" or experiment.method is None:
        return
    try:
        shape = find_sft_shape(experiment)
    except ValueError:
        return  # `check_columns` reports this
    if data.system is not None and shape == "text":
        yield "data.system: stands before prompts and conversations, and the data have text; put it into the rows, or type data.system=null"
    if shape == "text" and getattr(experiment.method, "loss_on", "auto") == "last_turn":
        yield "method.loss_on=last_turn: rows of text have no turns, all of their tokens are trained; type method.loss_on=auto"


def check_unread(experiment: Experiment, typed: frozenset[str]) -> Iterator[str]:
    stage = experiment.stage.name
    for key in sorted(typed):
        group = key.split(".")[0]
        if stage == "download" and group in ("model", "data"):
            is_ignored = key not in READ_BY_DOWNLOAD and key != "model.parent"
        else:
            is_ignored = group in UNREAD.get(stage, ()) and not (stage == "export" and key in READ_BY_EXPORT)
        advice = INSTEAD.get((stage, key))
        if is_ignored or advice:
            yield f"{key}: is not read by stage={stage}; {f'{advice}, or ' if advice else ''}leave it out"


RULES = (check_columns, check_beliefs, check_labels, check_rendering, check_unread)
