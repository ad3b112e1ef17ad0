"""The rows a run reads."""

from dataclasses import dataclass
from typing import Annotated, Literal

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
    chat_template: Literal["auto", "always", "never"]
    """Whether prompts and responses become chat turns; auto = where the tokenizer has a chat template."""
    system: Annotated[str, MayBeEmpty()] | None
    """A system message put before every prompt that becomes a chat turn."""
