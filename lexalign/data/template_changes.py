"""Changes that a chat template made to the text of rows, counted by kind, with one example of each. No torch."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lexalign.errors import DataError

log = logging.getLogger(__name__)
SHOWN = 80
"""Characters of an example."""
KINDS = {
    "added_before": "the template writes text of its own in front of the answer; it is trained, measured and drawn with it",
    "trimmed": "the template changes white space of the answer",
    "dropped": "the template leaves out text of the answer",
    "dropped_before": "the template leaves out text of earlier answers (reasoning, as a rule)",
    "unseen": "the template does not show a system message, a turn, tools or tool calls of the row",
    "prompt_differs": "the conversation does not go on from the generation prompt, so answers begin where the two part",
    "tokens_apart": "the prompt's last token would merge with the answer's first, so the two are tokenised apart",
    "keys_unread": "the template never names a key of the turns",
    "refused": "the template refuses the row",
}
"""The kinds of change, in words."""
FORBIDDEN = ("dropped", "unseen")
"""Kinds that lose text of the row. They are refused unless data.allow_template_changes=true."""


class TemplateRefusal(DataError):
    """The chat template refuses a row. The message names the place of the row and the reason, which is also in `reason`."""

    def __init__(self, where: str, reason: str):
        super().__init__(f"{where}: the chat template refuses it ({reason})")
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self).partition(": the chat template")[0], self.reason)


@dataclass(kw_only=True)
class TemplateChanges:
    """Counts by kind of change and the first example of each. The values are plain, so that they can be stored with cached tokens."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """Count one."""
        assert kind in KINDS, kind
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.examples.setdefault(kind, example)

    def merge(self, other: "TemplateChanges") -> None:
        """Add the counts of other rows."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.examples.setdefault(kind, other.examples[kind])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"counts": self.counts, "examples": self.examples}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TemplateChanges":
        """Read `to_dict` back."""
        return cls(counts=dict(values["counts"]), examples=dict(values["examples"]))

    def describe(self) -> list[str]:
        """One sentence for each kind that occurred."""
        return [f"{count_times(count)}: {KINDS[kind]} (first: {self.examples[kind]})" for kind, count in self.sorted_counts()]

    def sorted_counts(self) -> Iterable[tuple[str, int]]:
        """The counts in the order of `KINDS`."""
        return [(kind, self.counts[kind]) for kind in KINDS if self.counts.get(kind)]

    def report(self, what: str) -> None:
        """Log the changes. Changes that lose text, and some others, are warnings."""
        for kind, sentence in zip([kind for kind, _ in self.sorted_counts()], self.describe(), strict=True):
            is_warning = kind in (*FORBIDDEN, "prompt_differs", "trimmed", "keys_unread")
            log.log(logging.WARNING if is_warning else logging.INFO, "Chat template, %s: %s", what, sentence)

    def list_problems(self, *, allow: bool) -> list[str]:
        """The reasons why these rows cannot be trained. Allowed changes are no reason."""
        problems = []
        if count := self.counts.get("refused"):
            problems.append(
                f"the chat template refuses {count_rows(count)}; first: {self.examples['refused']}; take them out or rewrite their turns, "
                "or name another template with data.chat_template=<file>"
            )
        for kind in () if allow else FORBIDDEN:
            if count := self.counts.get(kind):
                problems.append(
                    f"{KINDS[kind]}, {count_times(count)}; first: {self.examples[kind]}; "
                    "type data.allow_template_changes=true to train what is left, or name a template that keeps it with "
                    "data.chat_template=<file>"
                )
        return problems


def count_times(count: int) -> str:
    """A number of times in words."""
    return "once" if count == 1 else f"{count:,} times"


def count_rows(count: int) -> str:
    """A number of rows in words."""
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def shorten(text: str) -> str:
    """A text as an example shows it: quoted, and cut after `SHOWN` characters."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")
