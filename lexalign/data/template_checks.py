"""Holds what a chat template wrote against the row it was given: nothing of the row may be lost without a word. No torch."""

from collections.abc import Collection
from typing import Any

from lexalign.data.template import Turn, Turns
from lexalign.data.template_changes import TemplateChanges, shorten
from lexalign.data.turns import get_tool_name

TURN_KEYS = frozenset({"role", "content", "reasoning_content", "tool_calls", "weight"})
"""Keys of a turn whose fate is looked at by what they say."""


class TemplateChecks:
    """Counts in `changes` what became of answers and of what stands before them."""

    def __init__(self, changes: TemplateChanges):
        self.changes = changes

    def check_answer(self, turn: Turn, region: str, where: str) -> None:
        """`region` is all that the template made of an answer."""
        content, reasoning = turn["content"] or "", turn.get("reasoning_content", "")
        squeezed = squeeze(region)
        for text in filter(None, (reasoning, content)):
            if squeeze(text) not in squeezed:
                self.changes.add("dropped", f"{where}: {shorten(text)} became {shorten(region)}")
            elif text not in region:
                self.changes.add("trimmed", f"{where}: {shorten(text)}")
        for call in turn.get("tool_calls", ()):
            if call["function"]["name"] not in region:
                self.changes.add("dropped", f"{where}: the call of {call['function']['name']} became {shorten(region)}")
        places = [region.find(text) for text in (reasoning.strip(), content.strip()) if text and text in region]
        if places and (lead := region[: min(places)]).strip():
            self.changes.add("added_before", f"{where}: {shorten(lead)}")

    def check_context(self, turns: Turns, text: str, row: dict[str, Any], *, but: Collection[int] = ()) -> None:
        """Whether the turns but some, and the tools that the row offers, are in the text of a whole conversation or prompt."""
        squeezed, place = squeeze(text), getattr(row, "where", None) or shorten(turns[-1]["content"] or "")
        for number, turn in enumerate(turns):
            if number in but:
                continue
            where = f"{place} turn {number + 1} ({turn['role']})"
            kind = "dropped_before" if turn["role"] == "assistant" else "unseen"
            for said in filter(None, (turn.get("reasoning_content"), turn["content"])):
                if squeeze(said) not in squeezed:
                    self.changes.add(kind, f"{where}: {shorten(said)}")
            for call in turn.get("tool_calls", ()):
                if call["function"]["name"] not in text:
                    self.changes.add("unseen", f"{where}: the call of {call['function']['name']}")
        for tool in row.get("tools") or ():
            if str(get_tool_name(tool)) not in text:
                self.changes.add("unseen", f"{place}: the tool {get_tool_name(tool)}")

    def check_keys(self, turns: Turns, source: str, where: str | None) -> None:
        """Keys of turns that the template's source never names."""
        for key in sorted({key for turn in turns for key in turn} - TURN_KEYS):
            if key not in source:
                self.changes.add("keys_unread", f"{where or 'a row'}: {key}")


def squeeze(text: str) -> str:
    """A text without white space."""
    return "".join(text.split())
