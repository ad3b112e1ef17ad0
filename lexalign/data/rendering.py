"""Convert a row to ids, spans and weights. Training, measuring, lengths, caches, drawing and chat all use this module."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lexalign.config.schema import Data
from lexalign.data.chat_template import CHAT_WORDS
from lexalign.data.conversation import weigh_conversation
from lexalign.data.template import ChatTemplate, Turn, Turns
from lexalign.data.template_changes import TemplateChanges, shorten
from lexalign.data.template_checks import TemplateChecks
from lexalign.errors import DataError

MARK = "\u2063response\u2063"
"""A marker in place of an answer, used to find the position of the answer in a rendering."""
SHAPING = ("beliefs", "belief_format", "system", "template_arguments")
"""Settings of the data that change the ids, besides the template itself."""
TRAINS = {
    "all": "all tokens",
    "assistant": "every assistant turn",
    "last_turn": "the last assistant turn",
    "completion": "the completion",
}
TAGS = ("think", "thinking", "reasoning")
"""Names of the tags around reasoning; tokenizers may have special tokens for them."""
NO_EOS = (
    "the tokenizer has no EOS token, so no answer would have an end; set eos_token in its tokenizer_config.json, or name another tokenizer "
    "with model.tokenizer=<hub id or folder>"
)
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RenderedSequence:
    """The ids of one sequence in three spans: the context, the belief after it, and the response.

    `context` is never trained. `weights` holds one number for each response token; None means 1.0 for all. In a conversation with several
    trained turns, the context ends before the first trained turn, and the tokens between the trained turns have weight 0.
    """

    context: list[int]
    belief: list[int] = field(default_factory=list)
    response: list[int]
    weights: list[float] | None = None

    @property
    def ids(self) -> list[int]:
        """All tokens."""
        return [*self.context, *self.belief, *self.response]

    @property
    def response_weights(self) -> list[float]:
        """One weight for each response token."""
        return [1.0] * len(self.response) if self.weights is None else self.weights

    @property
    def trained(self) -> list[bool]:
        """Whether each of `ids` is trained. Beliefs are trained."""
        return [False] * len(self.context) + [True] * len(self.belief) + [weight != 0 for weight in self.response_weights]

    def cut(self, length: int) -> "RenderedSequence":
        """The first `length` tokens."""
        start = len(self.context) + len(self.belief)
        response_length = max(0, length - start)
        weights = None if self.weights is None else self.weights[:response_length]
        belief = self.belief[: max(0, length - len(self.context))]
        return RenderedSequence(context=self.context[:length], belief=belief, response=self.response[:response_length], weights=weights)


def get_row_arguments(row: Row) -> dict[str, Any]:
    """The fields of a row that change its rendering, as keyword arguments of `Renderer.render_prompt`."""
    return {name: row[name] for name in ("tools", "system", "template_arguments") if name in row}


class Renderer:
    """Renders rows as the model reads them: as chat turns if the tokenizer has a template, else as plain text.

    A response is found by prefixes. The template writes the turns without the answer and the turns with the answer. The response is the
    rest after the common prefix of both, up to the token that ends the turn. Beliefs (`render_pair` with `shared_belief`) are tokenised
    separately from the text around them.
    """

    def __init__(
        self,
        tokenizer: Any,
        data: Data,
        *,
        loss_on: str = "auto",
        shared_belief: bool = False,
        more_end_tokens: Iterable[int] = (),
        cuts_prompt: bool = False,
    ):
        has_template = bool(tokenizer.chat_template)
        if data.chat_template == "always" and not has_template:
            raise DataError("data.chat_template=always: the tokenizer has no chat template; type data.chat_template=never")
        self.tokenizer = tokenizer
        self.data = data
        self.loss_on = loss_on
        self.shared_belief = shared_belief
        self.more_end_tokens = frozenset(more_end_tokens)
        """Tokens of the model's generation config that end an answer, in addition to those of the template and the tokenizer."""
        self.chat = has_template and data.chat_template != "never"
        date = datetime.date.fromisoformat(data.template_date) if data.template_date else datetime.date.today()
        self.template = ChatTemplate(tokenizer, date=date, arguments=data.template_arguments or {})
        self.changes = TemplateChanges()
        self.cuts_prompt = cuts_prompt
        """Whether answers follow only the start of the template's generation prompt, in training and in generation."""

    @property
    def checks(self) -> TemplateChecks:
        """The checks that count in `changes`."""
        return TemplateChecks(self.changes)

    def settings(self) -> dict[str, Any]:
        """The settings that change the ids, for keys of caches."""
        settings = {name: getattr(self.data, name) for name in SHAPING}
        date = {"template_date": self.template_date} if self.template_date else {}
        # Any other value is the path of a template, and the tokenizer has that template already.
        chat = {"chat_template": self.data.chat_template if self.data.chat_template in CHAT_WORDS else "auto"}
        return {**settings, **chat, **date, "loss_on": self.loss_on, "cuts_prompt": self.cuts_prompt, "end_tokens": sorted(self.end_tokens)}

    @property
    def template_date(self) -> str | None:
        """The date that the chat template uses as today; None if the template does not use the date, or if no template is used."""
        return self.template.date.isoformat() if self.chat and self.template.reads_clock else None

    # Rows

    def render_row(self, row: Row) -> tuple[RenderedSequence, ...]:
        """The sequences of a row of any shape: two for a pair, one for a row with an answer, and only the context for a prompt alone."""
        if "chosen" in row:
            return self.render_pair(row, shared_belief=self.shared_belief)
        if "prompt" in row and "completion" not in row:
            return (RenderedSequence(context=self.render_prompt(row["prompt"], **get_row_arguments(row)), response=[]),)
        return (self.render_answer(row),)

    def render_answer(self, row: Row) -> RenderedSequence:
        """The sequence of a row with one answer: a completion after its prompt, a conversation, or a text."""
        if "text" in row:
            return RenderedSequence(context=[], response=self.text_ids(row["text"]))
        trains = self.resolve_loss_on(row)
        if "messages" in row:
            return self._render_conversation(row["messages"], row, trains)
        answer: Turn = {"role": "assistant", "content": row["completion"]}
        if trains == "assistant" and self.chat:
            return self._render_conversation([*self.turns(row["prompt"]), answer], row, trains)
        if trains == "all":
            return RenderedSequence(context=[], response=self._encode(self._write_both(row["prompt"], answer, row)[1]))
        return self.render_completion(row)

    def render_completion(self, row: Row) -> RenderedSequence:
        """The completion of a row after its prompt. `loss_on` does not change it."""
        context, response = self._render_completion(row["prompt"], {"role": "assistant", "content": row["completion"]}, row)
        return RenderedSequence(context=context, response=response)

    def resolve_loss_on(self, row: Row) -> str:
        """The value of `method.loss_on` for rows of this shape: all, assistant, last_turn or completion."""
        if "text" in row:
            return "all"
        if self.loss_on == "auto":
            return "assistant" if "messages" in row else "completion"
        return {"completion": "last_turn"}.get(self.loss_on, self.loss_on) if "messages" in row else self.loss_on

    def describe_loss_on(self, row: Row) -> str:
        """A sentence that says which tokens of rows of this shape are trained."""
        trains = self.resolve_loss_on(row)
        method_note = ""
        if trains == "assistant":
            has_marks = self.chat and self.template.has_marks(row.get("tools"))
            method_note = ", found by the chat template's generation marks" if has_marks else ", found by prefixes of the conversation"
        return f"method.loss_on={self.loss_on}: trains {TRAINS[trains]}{method_note}"

    def render_pair(self, row: Row, *, shared_belief: bool) -> tuple[RenderedSequence, RenderedSequence]:
        """The chosen and the rejected sequence of a pair, after the same context.

        With beliefs, `shared_belief` puts both responses after the belief of the chosen response, in a separate span (gdpo). Otherwise each
        response follows its own belief, which is part of that response (dpo on such data).
        """
        if "belief" in row and shared_belief:
            return self._render_behind_belief(row, "chosen"), self._render_behind_belief(row, "rejected")
        texts = [row["chosen"], row["rejected"]]
        if "belief" in row:
            beliefs = (row["belief"], row.get("rejected_belief", row["belief"]))
            texts = [self.belief_text(belief) + text for belief, text in zip(beliefs, texts, strict=True)]
        answers: list[Turn] = [{"role": "assistant", "content": text} for text in texts]
        sequences = [self._render_completion(row["prompt"], answer, row) for answer in answers]
        context_length = min(len(context) for context, _ in sequences)
        chosen_sequence, rejected_sequence = (
            RenderedSequence(context=context[:context_length], response=context[context_length:] + response)
            for context, response in sequences
        )
        return chosen_sequence, rejected_sequence

    def render_prompt(
        self,
        prompt: str | Turns,
        *,
        tools: Sequence[Any] | None = None,
        system: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids that the model continues with its answer: the prompt and the generation prompt, as in training.

        With beliefs, text that the template writes before an answer is part of the prompt, as in `render_pair`.
        """
        arguments = {"tools": tools, "system": system, "template_arguments": template_arguments}
        return self._encode(self._write_prompt(prompt, arguments))

    def render_prompt_text(self, prompt: str | Turns, **arguments: Any) -> str:
        """`render_prompt` as text. The tokenizer turns this text into the same ids when it adds its own BOS."""
        text = self._write_prompt(prompt, arguments)
        bos = self.tokenizer.bos_token
        return text.removeprefix(bos) if self.chat and bos and self.added_around[0] else text

    # How a row is written

    def turns(self, prompt: str | Turns, system: str | None = None) -> Turns:
        """A prompt as chat turns, the system message first."""
        turns: Turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        system = system or self.data.system
        if system and turns[0]["role"] == "system":
            setting = "data.system" if system == self.data.system else "data.columns.system"
            raise DataError(f"{setting}: a prompt of the data has a system message of its own; type {setting}=null")
        system_turns: Turns = [{"role": "system", "content": system}] if system else []
        return system_turns + turns

    def plain(self, prompt: str | Turns) -> str:
        """A prompt as plain text; raises DataError for turns, which need a template."""
        if isinstance(prompt, str):
            return prompt
        raise DataError("data.columns.prompt holds chat turns, but the tokenizer has no chat template; give prompts as text")

    def get_template_arguments(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the template besides the turns, and the place of the row."""
        return {"tools": row.get("tools"), "arguments": row.get("template_arguments"), "where": getattr(row, "where", None)}

    def _write_both(self, prompt: str | Turns, answer: Turn, row: Mapping[str, Any]) -> tuple[str, str]:
        """The text before an answer, with the generation prompt, and the text with the answer."""
        if not self.chat:
            return self.plain(prompt), self.plain(prompt) + self.end_text(answer["content"])
        turns, arguments = self.turns(prompt, row.get("system")), self.get_template_arguments(row)
        return self.template.write(turns, answer_next=True, **arguments), self.template.write([*turns, answer], **arguments)

    def _write_prompt(self, prompt: str | Turns, row: Mapping[str, Any]) -> str:
        has_beliefs = self.data.columns.belief is not None
        if not self.chat or not (self.cuts_prompt or has_beliefs):
            if not self.chat:
                return self.plain(prompt)
            return self.template.write(self.turns(prompt, row.get("system")), answer_next=True, **self.get_template_arguments(row))
        text_before, full_text = self._write_both(prompt, {"role": "assistant", "content": MARK}, row)
        lead_text = full_text[: full_text.index(MARK)]
        return lead_text if has_beliefs else lead_text[: count_common(text_before, lead_text)]

    def describe_place(self, row: Mapping[str, Any], turn: Turn) -> str:
        """The place of a row, or the start of the turn's text if the row has no place."""
        return getattr(row, "where", None) or shorten(turn["content"] or "")

    def _render_completion(self, prompt: str | Turns, answer: Turn, row: Row) -> tuple[list[int], list[int]]:
        """(context, response) of an answer."""
        text_before, full_text = self._write_both(prompt, answer, row)
        ids_before, ids = self._encode(text_before), self._encode(full_text)
        where = self.describe_place(row, answer)
        if self.chat:
            turns = self.turns(prompt, row.get("system"))
            self.checks.check_keys(turns, self.template.get_source(row.get("tools")), where)
            self.checks.check_context(turns, text_before, row)
            self.checks.check_answer(answer, full_text[count_common(text_before, full_text) :], where)
        if not full_text.startswith(text_before):
            self.changes.add(
                "prompt_differs", f"{where}: {shorten(text_before[count_common(text_before, full_text) :])} is not in the conversation"
            )
        elif ids[: len(ids_before)] != ids_before:
            self.changes.add("tokens_apart", where)
            return ids_before, self.cut_after_end(self.ids(full_text[len(text_before) :]))
        context_length = count_common(ids_before, ids)
        return ids[:context_length], self.cut_after_end(ids[context_length:])

    def _render_behind_belief(self, row: Row, side: str) -> RenderedSequence:
        """A response after the belief of the chosen response. The spans are tokenised separately."""
        belief, text = self.belief_text(row["belief"]), row[side]
        _, full_text = self._write_both(row["prompt"], {"role": "assistant", "content": belief + text}, row)
        belief_start = full_text.rfind(belief + text)
        if belief_start < 0:
            text = text.strip()
            belief_start = full_text.rfind(belief + text)
        if belief_start < 0:
            raise DataError(f"{getattr(row, 'where', shorten(text))}: the chat template does not show the answer as it stands in the data")
        response_text = full_text[belief_start + len(belief) :]
        return RenderedSequence(
            context=self._encode(full_text[:belief_start]), belief=self.ids(belief), response=self.cut_after_end(self.ids(response_text))
        )

    def _render_conversation(self, messages: Turns, row: Row, trains: str) -> RenderedSequence:
        """A conversation in which the turns that `trains` names are trained."""
        if not self.chat:
            raise DataError("data.columns.messages holds chat turns, but the tokenizer has no chat template; give text, or another model")
        turns = self.turns(messages, row.get("system"))
        self.checks.check_keys(turns, self.template.get_source(row.get("tools")), getattr(row, "where", None))
        ids, weights = weigh_conversation(self, turns, row, trains)
        context_length = 0 if trains == "all" else next((index for index, weight in enumerate(weights) if weight), len(ids))
        response_weights = weights[context_length:]
        is_uniform = all(weight == 1.0 for weight in response_weights)
        return RenderedSequence(
            context=ids[:context_length], response=ids[context_length:], weights=None if is_uniform else response_weights
        )

    # Ids

    def _encode(self, text: str) -> list[int]:
        """Ids of a whole text. A template writes the BOS itself; before a plain text, the tokenizer's BOS is added."""
        return self.ids(text) if self.chat else [*self.added_around[0], *self.ids(text)]

    def ids(self, text: str) -> list[int]:
        """Ids of a text without the tokens that the tokenizer adds before and after it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text of the `text` column: the tokenizer's BOS before it, one EOS after it."""
        return [*self.added_around[0], *self.ids(self.end_text(text))]

    def end_text(self, text: str) -> str:
        """A text with EOS at its end, added if it is not there."""
        eos = self.get_eos()
        return text if text.endswith(eos) else text + eos

    def get_eos(self) -> str:
        """The EOS token; raises DataError if there is none, because no text could have an end."""
        if self.tokenizer.eos_token is None:
            raise DataError(NO_EOS)
        return self.tokenizer.eos_token

    @cached_property
    def added_around(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer adds before and after a text by default."""
        inner_ids, all_ids = self.ids("a"), list(self.tokenizer("a")["input_ids"])
        start = next(position for position in range(len(all_ids) + 1) if all_ids[position : position + len(inner_ids)] == inner_ids)
        return all_ids[:start], all_ids[start + len(inner_ids) :]

    def cut_after_end(self, ids: list[int]) -> list[int]:
        """A response up to the token that ends its turn. Text that a template writes after it (a line break) is not part of a response."""
        end, ids_after = self.end()
        ending_ids = [end, *ids_after]
        return ids[: -len(ids_after)] if ids_after and ids[-len(ending_ids) :] == ending_ids else ids

    def decode_answer(self, ids: list[int]) -> str:
        """An answer as text, without special tokens. The tags around reasoning stay, to separate the reasoning from the answer."""
        added_tokens = self.tokenizer.added_tokens_decoder
        tags = [
            token
            for token in set(ids)
            if token in added_tokens and added_tokens[token].special and added_tokens[token].content.strip("</>") in TAGS
        ]
        if not tags:
            return self.tokenizer.decode(ids, skip_special_tokens=True)
        return self.tokenizer.decode(
            [token for token in ids if token in tags or not (token in added_tokens and added_tokens[token].special)]
        )

    # Where an answer ends

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens at which an answer ends: the template's end of turn, the tokenizer's EOS, the generation config's."""
        tokens = {self.end()[0], self.tokenizer.eos_token_id} | self.more_end_tokens
        return frozenset(token for token in tokens if token is not None)

    def ending(self) -> str:
        """The text that the chat template writes after an assistant's content, or the EOS token."""
        return self._ending

    @cached_property
    def _ending(self) -> str:
        if not self.chat:
            return self.get_eos()
        turns: Turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
        return self.template.write(turns).rpartition(MARK)[2]

    def end(self) -> tuple[int, list[int]]:
        """The token at which a response ends, and the ids that the chat template writes after it (usually a line break).

        It is the last token of the first run of special tokens in `ending`. A template may end a turn with another token than the
        tokenizer's EOS. If it ends a turn with no special token, the end is the EOS token with no ids after it.
        """
        return self._end

    @cached_property
    def _end(self) -> tuple[int, list[int]]:
        ids = self.ids(self.ending())
        index = next((index for index, token in enumerate(ids) if token in self.special_tokens), None)
        if index is None:
            if self.tokenizer.eos_token_id is None:
                raise DataError(NO_EOS)
            return self.tokenizer.eos_token_id, []
        while index + 1 < len(ids) and ids[index + 1] in self.special_tokens:
            index += 1
        return ids[index], ids[index + 1 :]

    @cached_property
    def special_tokens(self) -> frozenset[int]:
        """Special tokens of the tokenizer."""
        special_ids = {token for token, added_token in self.tokenizer.added_tokens_decoder.items() if added_token.special}
        return frozenset({*special_ids, *self.tokenizer.all_special_ids})

    # Beliefs

    def belief_text(self, index: int) -> str:
        """The text of the belief with this index, as it is written before its response."""
        assert self.data.beliefs is not None
        return self.data.belief_format.format(index=index, text=self.data.beliefs[index])

    def first_belief_tokens(self) -> list[int]:
        """The first token of each belief; raises DataError that names two beliefs with the same first token."""
        assert self.data.beliefs is not None
        first_tokens = [self.ids(self.belief_text(index))[0] for index in range(len(self.data.beliefs))]
        for index, token in enumerate(first_tokens):
            if token in first_tokens[:index]:
                other_index = first_tokens.index(token)
                raise DataError(
                    f"data.beliefs: {self.belief_text(other_index)!r} and {self.belief_text(index)!r} begin with the same token "
                    f"({self.tokenizer.decode([token])!r}), so their shares cannot be told apart; change data.belief_format"
                )
        return first_tokens


def count_common(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Length of the longest common prefix."""
    return next(
        (index for index, (first_item, second_item) in enumerate(zip(first, second, strict=False)) if first_item != second_item),
        min(len(first), len(second)),
    )


def pad_rows(rows: Sequence[Sequence[int]], pad: int) -> tuple[list[list[int]], list[list[int]]]:
    """Ragged rows padded on the right, and their attention mask."""
    width = max(len(row) for row in rows)
    return [[*row, *[pad] * (width - len(row))] for row in rows], [[1] * len(row) + [0] * (width - len(row)) for row in rows]
