"""One conversation through a tokenizer's chat template: the text, its clock held still, its refusals as errors that name the row."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from lexalign.compat import hold_template_clock
from lexalign.data.template_changes import TemplateRefusal
from lexalign.errors import first_line

Turn = dict[str, Any]
Turns = list[Turn]
OF_TRAINING = ("weight", "train")
"""What a turn may say of its training; no template sees it."""
CLOCK = "strftime_now"
"""The name by which a template asks for today's date."""


class ChatTemplate:
    """The template of a tokenizer. `date` is the day that `strftime_now` gives; it is read only by templates that ask for it."""

    def __init__(self, tokenizer: Any, *, date: datetime.date, arguments: Mapping[str, Any]):
        self.tokenizer = tokenizer
        self.date = date
        self.arguments = dict(arguments)

    def get_source(self, tools: Sequence[Any] | None = None) -> str:
        """The template's own text; of several named ones, the one for these tools."""
        return self.tokenizer.get_chat_template(None, list(tools) if tools else None)

    @property
    def reads_clock(self) -> bool:
        """Whether the template asks for today's date."""
        texts = self.tokenizer.chat_template or ""
        return any(CLOCK in text for text in (texts.values() if isinstance(texts, dict) else [texts]))

    def has_marks(self, tools: Sequence[Any] | None = None) -> bool:
        """Whether the template marks what an assistant says with `{% generation %}`, however its tags handle white space."""
        import jinja2

        return any(
            kind == "block_begin" and following[2] == "generation"
            for (_, kind, _), following in pair_tokens(jinja2.Environment().lex(self.get_source(tools)))
        )

    def write(
        self,
        turns: Turns,
        *,
        answer_next: bool = False,
        tools: Sequence[Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
        where: str | None = None,
    ) -> str:
        """The text of a conversation; with `answer_next`, up to where the assistant's answer begins. Raises TemplateRefusal."""
        return self._apply(turns, where=where, tools=tools, arguments=arguments, add_generation_prompt=answer_next, tokenize=False)

    def mark(
        self, turns: Turns, *, tools: Sequence[Any] | None = None, arguments: Mapping[str, Any] | None = None, where: str | None = None
    ) -> tuple[list[int], list[int]]:
        """The ids of a conversation, and 1 for each that the template's generation marks enclose."""
        encoded = self._apply(
            turns, where=where, tools=tools, arguments=arguments, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return list(encoded["input_ids"]), list(encoded["assistant_masks"])

    def _apply(self, turns: Turns, *, where: str | None, tools: Any, arguments: Any, **settings: Any) -> Any:
        shown = [{name: value for name, value in turn.items() if name not in OF_TRAINING} for turn in turns]
        merged = {**self.arguments, **(arguments or {})}
        try:
            with hold_template_clock(self.date):
                return self.tokenizer.apply_chat_template(shown, tools=list(tools) if tools else None, **settings, **merged)
        except Exception as error:  # a template is a program of somebody's: it may raise anything
            roles = ", ".join(str(turn["role"]) for turn in shown)
            reason = f"{first_line(error)}" if type(error).__name__ == "TemplateError" else f"{type(error).__name__}: {first_line(error)}"
            raise TemplateRefusal(f"{where or f'turns of {roles}'}: the chat template refuses it ({reason})") from error


def pair_tokens(tokens: Any) -> list[tuple[Any, Any]]:
    """Neighbouring tokens of a template, white space left out."""
    kept = [token for token in tokens if token[1] != "whitespace"]
    return list(zip(kept, kept[1:], strict=False))
