"""The rows a run reads."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from lexalign.config.parsing import MayBeEmpty
from lexalign.config.schema.ranges import Count, Share


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names that our columns have in the user's data; null = the data have no such column."""

    text: str | None
    """Plain text to go on with (sft)."""
    messages: str | None
    """A conversation: a list of turns with role and content (sft)."""
    prompt: str | None
    """A question as text, or as the turns before the response."""
    completion: str | None
    """The response that sft trains, or that kto has a label for; for align on pairs, the answer that the model's own is measured
    against (it may be the chosen column)."""
    chosen: str | None
    """The better response (align)."""
    rejected: str | None
    """The worse response (align)."""
    belief: str | None
    """The chosen response's belief: its text or its index in `data.beliefs`."""
    rejected_belief: str | None
    """The rejected response's belief; plain dpo puts it before that response."""
    probabilities: str | None
    """Shares p* of the beliefs for this prompt, in the order of `data.beliefs`."""
    group: str | None
    """Whose beliefs a row shows, where one file holds several groups; each has shares of its own."""
    soft_label: str | None
    """Probability that the chosen response is preferred, 0 to 1 (gdpo_soft, cdpo_soft)."""
    label: str | None
    """Whether the completion is desirable: true or false, 1 or 0 (kto)."""
    tools: str | None
    """The tools that the assistant was offered: a list of JSON schemas, or that list as JSON text. A row may lack it."""
    system: str | None
    """A system message of the row's own, put before its turns. A row may lack it."""
    template_arguments: str | None
    """Arguments of the chat template for this row, as in `data.template_arguments`. A row may lack it."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The rows to train and to evaluate on."""

    path: str | None
    """File, folder with train and test files, or hub id. `embedded:<name>` is a data set inside this package, `generated:reasoning/sft`
    and `generated:reasoning/pairs` are made on first use."""
    revision: str | None
    """Branch, tag or commit on the hub."""
    subset: str | None
    """Configuration name of a hub data set."""
    format: Literal["auto", "json", "jsonl", "csv", "parquet", "hub"]
    """How the files are written; auto = as their ending says, or the hub."""
    split: str
    """Split to train on: `train` is train.* in a folder."""
    eval_split: str | None
    """Held-out split; null = take `eval_fraction` of the training rows."""
    eval_fraction: Share | None
    """Share of the training split held out, by prompt, when there is no `eval_split`."""
    limit: Count | None
    """Use only the first rows of each split."""
    columns: Columns
    """What our columns are called in the data."""
    beliefs: list[str] | None
    """The texts of the beliefs, in the order of the target shares."""
    belief_format: str
    """How a belief stands before its response: `{index}` and `{text}` are filled in."""
    converter: str | None
    """Dotted path of a function that turns one row as stored into one row of our columns, several, or None to leave it out (counted)."""
    chat_template: str
    """Whether prompts and responses become chat turns: auto = where the tokenizer has a chat template; always; never; or the path of a
    template of your own, which takes the place of the tokenizer's and is saved with the model."""
    system: Annotated[str, MayBeEmpty()] | None
    """A system message put before every prompt and conversation that becomes chat turns. A row's own `system` column wins over it; a row
    whose turns begin with a system message is refused."""
    template_arguments: dict[str, Any] | None
    """Arguments passed to the chat template with every row, as in {enable_thinking: false}; null = none."""
    template_date: str | None
    """The day that a chat template takes for today, as in 2026-11-29; null = the day on which the run began. A template that asks for no
    date does not see it. A model is measured, exported and spoken to with the day that it was trained with."""
    allow_template_changes: bool
    """Train rows of whose answers the chat template leaves out text (reasoning, tool calls); false = refuse them."""
