"""Write a conversation with a tokenizer's chat template. The date is fixed, and a refusal becomes an error that names the row."""

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from lexalign.compat import hold_template_clock
from lexalign.data.template_changes import TemplateRefusal
from lexalign.errors import first_line

Turn = dict[str, Any]
Turns = list[Turn]
OF_TRAINING = ("weight", "train")
"""Fields of a turn about its training; templates do not get them."""
PROBE = "lexalign"
CLOCK = "strftime_now"
"""The name by which a template asks for today's date."""


class ChatTemplate:
    """The template of a tokenizer. `date` is the day that `strftime_now` returns to templates that call it."""

    def __init__(self, tokenizer: Any, *, date: datetime.date, arguments: Mapping[str, Any]):
        self.tokenizer = tokenizer
        self.date = date
        self.arguments = dict(arguments)

    def get_source(self, tools: Sequence[Any] | None = None) -> str:
        """The text of the template; if there are several named templates, the one for these tools."""
        return self.tokenizer.get_chat_template(None, list(tools) if tools else None)

    @cached_property
    def reads_clock(self) -> bool:
        """Whether the template asks for today's date."""
        texts = self.tokenizer.chat_template or ""
        return any(CLOCK in text for text in (texts.values() if isinstance(texts, dict) else [texts]))

    @cached_property
    def needs_parts(self) -> bool:
        """Whether the template reads content only as a list of parts, as templates of vision models do."""
        probe: Turn = {"role": "user", "content": PROBE}
        return not self._shows_probe(probe) and self._shows_probe(wrap_text(probe))

    def _shows_probe(self, turn: Turn) -> bool:
        try:
            return PROBE in self.tokenizer.apply_chat_template([turn], tokenize=False)
        except Exception:  # a template may raise any error
            return False

    def has_marks(self, tools: Sequence[Any] | None = None) -> bool:
        """Whether the template marks the assistant's text with `{% generation %}`; the tags may strip white space."""
        return has_generation_marks(self.get_source(tools))

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
        """The ids of a conversation, and for each id 1 if it is inside the template's generation marks, else 0."""
        encoded = self._apply(
            turns, where=where, tools=tools, arguments=arguments, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return list(encoded["input_ids"]), list(encoded["assistant_masks"])

    def _apply(self, turns: Turns, *, where: str | None, tools: Any, arguments: Any, **settings: Any) -> Any:
        plain_turns = [{name: value for name, value in turn.items() if name not in OF_TRAINING} for turn in turns]
        if self.needs_parts:
            plain_turns = [wrap_text(turn) for turn in plain_turns]
        template_arguments = {**settings, **self.arguments, **(arguments or {})}
        if tools:
            template_arguments["tools"] = list(tools)
        with hold_template_clock(self.date):
            try:
                return self.tokenizer.apply_chat_template(plain_turns, **template_arguments)
            except Exception as error:  # a template is a program: it may raise any error
                problem = error
            if any("tool_calls" in turn for turn in turns):  # some templates expect the arguments of a call as text
                try:
                    return self.tokenizer.apply_chat_template([write_arguments(turn) for turn in plain_turns], **template_arguments)
                except Exception:
                    pass  # the first problem is the one to report
        reason = first_line(problem) if type(problem).__name__ == "TemplateError" else f"{type(problem).__name__}: {first_line(problem)}"
        roles = ", ".join(str(turn["role"]) for turn in plain_turns)
        raise TemplateRefusal(where or f"turns of {roles}", reason) from problem


def wrap_text(turn: Turn) -> Turn:
    """The turn with its content as a list of one text part."""
    text = turn.get("content")
    return {**turn, "content": [{"type": "text", "text": text}]} if isinstance(text, str) and text else turn


def write_arguments(turn: Turn) -> Turn:
    """The turn with the arguments of its tool calls as JSON text."""
    if "tool_calls" not in turn:
        return turn
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)}}
        for call in turn["tool_calls"]
    ]
    return {**turn, "tool_calls": calls}


@lru_cache
def has_generation_marks(source: str) -> bool:
    """Whether a template has a `generation` block, according to the tokens of jinja."""
    import jinja2

    tokens = [token for token in jinja2.Environment().lex(source) if token[1] != "whitespace"]
    return any(
        kind == "block_begin" and next_token[2] == "generation" for (_, kind, _), next_token in zip(tokens, tokens[1:], strict=False)
    )
