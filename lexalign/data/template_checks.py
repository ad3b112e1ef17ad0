"""Compare the text of a chat template with its row, so that no loss of text goes unreported. No torch."""

from collections.abc import Collection
from typing import Any

from lexalign.data.template import Turn, Turns
from lexalign.data.template_changes import TemplateChanges, shorten
from lexalign.data.turns import get_tool_name

TURN_KEYS = frozenset({"role", "content", "reasoning_content", "tool_calls", "weight"})
"""Keys of a turn that are checked by their values."""


class TemplateChecks:
    """Counts in `changes` how the template changed answers and the text before them."""

    def __init__(self, changes: TemplateChanges):
        self.changes = changes

    def check_answer(self, turn: Turn, region: str, where: str) -> None:
        """Check an answer. `region` is all the text that the template wrote for it."""
        content, reasoning = turn["content"] or "", turn.get("reasoning_content", "")
        squeezed_region = squeeze(region)
        for text in filter(None, (reasoning, content)):
            if squeeze(text) not in squeezed_region:
                self.changes.add("dropped", f"{where}: {shorten(text)} became {shorten(region)}")
            elif text not in region:
                self.changes.add("trimmed", f"{where}: {shorten(text)}")
        for call in turn.get("tool_calls", ()):
            if call["function"]["name"] not in region:
                self.changes.add("dropped", f"{where}: the call of {call['function']['name']} became {shorten(region)}")
        places = [region.find(text) for text in (reasoning.strip(), content.strip()) if text and text in region]
        if places and (text_before := region[: min(places)]).strip():
            self.changes.add("added_before", f"{where}: {shorten(text_before)}")

    def check_context(self, turns: Turns, text: str, row: dict[str, Any], *, but: Collection[int] = ()) -> None:
        """Check that the turns (except those in `but`) and the tools of the row are in the text of a whole conversation or prompt."""
        squeezed_text, place = squeeze(text), getattr(row, "where", None) or shorten(turns[-1]["content"] or "")
        for number, turn in enumerate(turns):
            if number in but:
                continue
            where = f"{place} turn {number + 1} ({turn['role']})"
            kind = "dropped_before" if turn["role"] == "assistant" else "unseen"
            for content in filter(None, (turn.get("reasoning_content"), turn["content"])):
                if squeeze(content) not in squeezed_text:
                    self.changes.add(kind, f"{where}: {shorten(content)}")
            for call in turn.get("tool_calls", ()):
                if call["function"]["name"] not in text:
                    self.changes.add("unseen", f"{where}: the call of {call['function']['name']}")
        for tool in row.get("tools") or ():
            if str(get_tool_name(tool)) not in text:
                self.changes.add("unseen", f"{place}: the tool {get_tool_name(tool)}")

    def check_keys(self, turns: Turns, source: str, where: str | None) -> None:
        """Count keys of turns that the template's source never names."""
        for key in sorted({key for turn in turns for key in turn} - TURN_KEYS):
            if key not in source:
                self.changes.add("keys_unread", f"{where or 'a row'}: {key}")


def squeeze(text: str) -> str:
    """A text without white space."""
    return "".join(text.split())
