"""A row becomes ids, spans and weights here and nowhere else: training, measuring, lengths, caches, drawing and chat read these."""

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
"""Stands for an answer whose place in a rendering is looked for."""
SHAPING = ("beliefs", "belief_format", "system", "template_arguments")
"""Settings of the data that shape the ids, beside the template itself."""
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
    """The ids of one sequence in three spans: what is read, the belief that follows it, and what is answered.

    `context` is never trained. `weights` holds one number for each response token; None stands for 1.0 throughout. Of a conversation
    with several trained turns the context ends before the first of them, and the tokens between them have weight 0.
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
        """Whether each of `ids` is trained: beliefs are."""
        return [False] * len(self.context) + [True] * len(self.belief) + [weight != 0 for weight in self.response_weights]

    def cut(self, length: int) -> "RenderedSequence":
        """The first `length` tokens."""
        read = len(self.context) + len(self.belief)
        kept = max(0, length - read)
        weights = None if self.weights is None else self.weights[:kept]
        belief = self.belief[: max(0, length - len(self.context))]
        return RenderedSequence(context=self.context[:length], belief=belief, response=self.response[:kept], weights=weights)


def get_row_arguments(row: Row) -> dict[str, Any]:
    """What a row says of its own rendering, as keyword arguments of `Renderer.render_prompt`."""
    return {name: row[name] for name in ("tools", "system", "template_arguments") if name in row}


class Renderer:
    """Renders rows the way the model meets them: as chat turns where the tokenizer has a template, else as plain text.

    A response is found by prefixes: it is what the template makes of the turns with the answer beyond what it makes of the turns before
    it, up to the token that ends the turn. Beliefs (`render_pair` with `shared_belief`) are tokenised apart from what stands around them.
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
        """Tokens that end an answer beside the template's and the tokenizer's: the model's generation config names them."""
        self.chat = has_template and data.chat_template != "never"
        date = datetime.date.fromisoformat(data.template_date) if data.template_date else datetime.date.today()
        self.template = ChatTemplate(tokenizer, date=date, arguments=data.template_arguments or {})
        self.changes = TemplateChanges()
        self.cuts_prompt = cuts_prompt
        """Whether answers were trained behind less than the template's generation prompt, and are asked for behind the same."""

    @property
    def checks(self) -> TemplateChecks:
        """What counts in `changes`."""
        return TemplateChecks(self.changes)

    def settings(self) -> dict[str, Any]:
        """What of the settings shapes the ids, for keys of caches."""
        settings = {name: getattr(self.data, name) for name in SHAPING}
        date = {"template_date": self.template_date} if self.template_date else {}
        # Whatever is no word is the path of a template, which the tokenizer has by now.
        chat = {"chat_template": self.data.chat_template if self.data.chat_template in CHAT_WORDS else "auto"}
        return {**settings, **chat, **date, "loss_on": self.loss_on, "cuts_prompt": self.cuts_prompt, "end_tokens": sorted(self.end_tokens)}

    @property
    def template_date(self) -> str | None:
        """The day that the chat template takes for today; None where it does not ask, or is not used."""
        return self.template.date.isoformat() if self.chat and self.template.reads_clock else None

    # Rows

    def render_row(self, row: Row) -> tuple[RenderedSequence, ...]:
        """The sequences of a row of any shape: two of a pair, one of a row with an answer; of a prompt alone, what is answered behind."""
        if "chosen" in row:
            return self.render_pair(row, shared_belief=self.shared_belief)
        if "prompt" in row and "completion" not in row:
            return (RenderedSequence(context=self.render_prompt(row["prompt"], **get_row_arguments(row)), response=[]),)
        return (self.render_answer(row),)

    def render_answer(self, row: Row) -> RenderedSequence:
        """The sequence of a row with one answer: a completion behind its prompt, a conversation, or a text."""
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
        """The completion of a row behind its prompt, whatever else of the row is trained."""
        context, response = self._render_completion(row["prompt"], {"role": "assistant", "content": row["completion"]}, row)
        return RenderedSequence(context=context, response=response)

    def resolve_loss_on(self, row: Row) -> str:
        """What `method.loss_on` comes to for rows of this shape: all, assistant, last_turn or completion."""
        if "text" in row:
            return "all"
        if self.loss_on == "auto":
            return "assistant" if "messages" in row else "completion"
        return {"completion": "last_turn"}.get(self.loss_on, self.loss_on) if "messages" in row else self.loss_on

    def describe_loss_on(self, row: Row) -> str:
        """What is trained of rows of this shape, in words."""
        trains = self.resolve_loss_on(row)
        how = ""
        if trains == "assistant":
            marked = self.chat and self.template.has_marks(row.get("tools"))
            how = ", found by the chat template's generation marks" if marked else ", found by prefixes of the conversation"
        return f"method.loss_on={self.loss_on}: trains {TRAINS[trains]}{how}"

    def render_pair(self, row: Row, *, shared_belief: bool) -> tuple[RenderedSequence, RenderedSequence]:
        """The chosen and the rejected sequence of a pair, behind one context.

        With beliefs, `shared_belief` puts both responses behind the chosen's belief, a span of its own (gdpo). Otherwise each response
        stands behind its own belief, which is part of that response (dpo on such data).
        """
        if "belief" in row and shared_belief:
            return self._render_behind_belief(row, "chosen"), self._render_behind_belief(row, "rejected")
        texts = [row["chosen"], row["rejected"]]
        if "belief" in row:
            beliefs = (row["belief"], row.get("rejected_belief", row["belief"]))
            texts = [self.belief_text(belief) + text for belief, text in zip(beliefs, texts, strict=True)]
        answers: list[Turn] = [{"role": "assistant", "content": text} for text in texts]
        sequences = [self._render_completion(row["prompt"], answer, row) for answer in answers]
        shared = min(len(context) for context, _ in sequences)
        chosen, rejected = (
            RenderedSequence(context=context[:shared], response=context[shared:] + response) for context, response in sequences
        )
        return chosen, rejected

    def render_prompt(
        self,
        prompt: str | Turns,
        *,
        tools: Sequence[Any] | None = None,
        system: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of what the model answers behind: the prompt with the generation prompt that answers are trained behind.

        With beliefs, what the template writes in front of an answer belongs to it, as it does in `render_pair`.
        """
        arguments = {"tools": tools, "system": system, "template_arguments": template_arguments}
        return self._encode(self._write_prompt(prompt, arguments))

    def render_prompt_text(self, prompt: str | Turns, **arguments: Any) -> str:
        """`render_prompt` as text: what the tokenizer makes the same ids of, its own BOS included."""
        text = self._write_prompt(prompt, arguments)
        bos = self.tokenizer.bos_token
        return text.removeprefix(bos) if self.chat and bos and self.added_around[0] else text

    # How a row is written

    def turns(self, prompt: str | Turns, system: str | None = None) -> Turns:
        """A prompt as chat turns, the system message first."""
        turns: Turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        system = system or self.data.system
        if system and turns[0]["role"] == "system":
            own = "data.system" if system == self.data.system else "data.columns.system"
            raise DataError(f"{own}: a prompt of the data has a system message of its own; type {own}=null")
        first: Turns = [{"role": "system", "content": system}] if system else []
        return first + turns

    def plain(self, prompt: str | Turns) -> str:
        """A prompt as plain text; raises DataError for turns, which need a template."""
        if isinstance(prompt, str):
            return prompt
        raise DataError("data.columns.prompt holds chat turns, but the tokenizer has no chat template; give prompts as text")

    def get_template_arguments(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the template is given beside the turns, and the row's place."""
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
        before, whole = self._write_both(prompt, {"role": "assistant", "content": MARK}, row)
        lead = whole[: whole.index(MARK)]
        return lead if has_beliefs else lead[: count_common(before, lead)]

    def describe_place(self, row: Mapping[str, Any], turn: Turn) -> str:
        """Where a row stands, or what it says."""
        return getattr(row, "where", None) or shorten(turn["content"] or "")

    def _render_completion(self, prompt: str | Turns, answer: Turn, row: Row) -> tuple[list[int], list[int]]:
        """(context, response) of an answer."""
        before, whole = self._write_both(prompt, answer, row)
        before_ids, ids = self._encode(before), self._encode(whole)
        where = self.describe_place(row, answer)
        if self.chat:
            turns = self.turns(prompt, row.get("system"))
            self.checks.check_keys(turns, self.template.get_source(row.get("tools")), where)
            self.checks.check_context(turns, before, row)
            self.checks.check_answer(answer, whole[count_common(before, whole) :], where)
        if not whole.startswith(before):
            self.changes.add("prompt_differs", f"{where}: {shorten(before[count_common(before, whole) :])} is not in the conversation")
        elif ids[: len(before_ids)] != before_ids:
            self.changes.add("tokens_apart", where)
            return before_ids, self.cut_after_end(self.ids(whole[len(before) :]))
        shared = count_common(before_ids, ids)
        return ids[:shared], self.cut_after_end(ids[shared:])

    def _render_behind_belief(self, row: Row, side: str) -> RenderedSequence:
        """A response behind the chosen's belief, the spans tokenised apart."""
        belief, text = self.belief_text(row["belief"]), row[side]
        _, whole = self._write_both(row["prompt"], {"role": "assistant", "content": belief + text}, row)
        at = whole.rfind(belief + text)
        if at < 0:
            text = text.strip()
            at = whole.rfind(belief + text)
        if at < 0:
            raise DataError(f"{getattr(row, 'where', shorten(text))}: the chat template does not show the answer as it stands in the data")
        rest = whole[at + len(belief) :]
        return RenderedSequence(context=self._encode(whole[:at]), belief=self.ids(belief), response=self.cut_after_end(self.ids(rest)))

    def _render_conversation(self, messages: Turns, row: Row, trains: str) -> RenderedSequence:
        """A conversation with the turns trained that `trains` names."""
        if not self.chat:
            raise DataError("data.columns.messages holds chat turns, but the tokenizer has no chat template; give text, or another model")
        turns = self.turns(messages, row.get("system"))
        self.checks.check_keys(turns, self.template.get_source(row.get("tools")), getattr(row, "where", None))
        ids, weights = weigh_conversation(self, turns, row, trains)
        first = 0 if trains == "all" else next((at for at, weight in enumerate(weights) if weight), len(ids))
        rest = weights[first:]
        uniform = all(weight == 1.0 for weight in rest)
        return RenderedSequence(context=ids[:first], response=ids[first:], weights=None if uniform else rest)

    # Ids

    def _encode(self, text: str) -> list[int]:
        """Ids of a whole text: a template writes its BOS itself, before a plain text the tokenizer puts its own."""
        return self.ids(text) if self.chat else [*self.added_around[0], *self.ids(text)]

    def ids(self, text: str) -> list[int]:
        """Ids of a text without what the tokenizer adds around one."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text of the `text` column: the tokenizer's BOS before it, one EOS after it."""
        return [*self.added_around[0], *self.ids(self.end_text(text))]

    def end_text(self, text: str) -> str:
        """A text with EOS at its end, where it has none."""
        eos = self.get_eos()
        return text if text.endswith(eos) else text + eos

    def get_eos(self) -> str:
        """The EOS token; raises DataError where there is none, for then no text has an end."""
        if self.tokenizer.eos_token is None:
            raise DataError(NO_EOS)
        return self.tokenizer.eos_token

    @cached_property
    def added_around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer adds before and after a text of its own accord."""
        bare, whole = self.ids("a"), list(self.tokenizer("a")["input_ids"])
        at = next(start for start in range(len(whole) + 1) if whole[start : start + len(bare)] == bare)
        return whole[:at], whole[at + len(bare) :]

    def cut_after_end(self, ids: list[int]) -> list[int]:
        """A response up to the token that ends its turn; what a template writes after it (a line break) belongs to no response."""
        end, after = self.end()
        whole = [end, *after]
        return ids[: -len(after)] if after and ids[-len(whole) :] == whole else ids

    def decode_answer(self, ids: list[int]) -> str:
        """An answer as text, without special tokens; but the tags around reasoning stay, so that it can be told from the answer."""
        added = self.tokenizer.added_tokens_decoder
        tags = [token for token in set(ids) if token in added and added[token].special and added[token].content.strip("</>") in TAGS]
        if not tags:
            return self.tokenizer.decode(ids, skip_special_tokens=True)
        return self.tokenizer.decode([token for token in ids if token in tags or not (token in added and added[token].special)])

    # Where an answer ends

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens at which an answer ends: the template's end of turn, the tokenizer's EOS, the generation config's."""
        named = {self.end()[0], self.tokenizer.eos_token_id} | self.more_end_tokens
        return frozenset(token for token in named if token is not None)

    def ending(self) -> str:
        """What the chat template writes after an assistant's content, or the EOS token."""
        return self._ending

    @cached_property
    def _ending(self) -> str:
        if not self.chat:
            return self.get_eos()
        turns: Turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
        return self.template.write(turns).rpartition(MARK)[2]

    def end(self) -> tuple[int, list[int]]:
        """The token at which a response ends, and the ids that the chat template writes after it (a line break, as a rule).

        It is the last of the first special tokens in a row of `ending`: what a template ends a turn with need not be the tokenizer's EOS
        token. Where a template ends a turn with none, the EOS token stands for the end, and nothing is after it.
        """
        return self._end

    @cached_property
    def _end(self) -> tuple[int, list[int]]:
        ids = self.ids(self.ending())
        at = next((at for at, token in enumerate(ids) if token in self.special_tokens), None)
        if at is None:
            if self.tokenizer.eos_token_id is None:
                raise DataError(NO_EOS)
            return self.tokenizer.eos_token_id, []
        while at + 1 < len(ids) and ids[at + 1] in self.special_tokens:
            at += 1
        return ids[at], ids[at + 1 :]

    @cached_property
    def special_tokens(self) -> frozenset[int]:
        """Special tokens of the tokenizer."""
        special = {token for token, added in self.tokenizer.added_tokens_decoder.items() if added.special}
        return frozenset({*special, *self.tokenizer.all_special_ids})

    # Beliefs

    def belief_text(self, index: int) -> str:
        """How the belief with this index is written before its response."""
        assert self.data.beliefs is not None
        return self.data.belief_format.format(index=index, text=self.data.beliefs[index])

    def first_belief_tokens(self) -> list[int]:
        """The token each belief begins with; raises DataError naming two beliefs that begin alike."""
        assert self.data.beliefs is not None
        firsts = [self.ids(self.belief_text(index))[0] for index in range(len(self.data.beliefs))]
        for index, token in enumerate(firsts):
            if token in firsts[:index]:
                other = firsts.index(token)
                raise DataError(
                    f"data.beliefs: {self.belief_text(other)!r} and {self.belief_text(index)!r} begin with the same token "
                    f"({self.tokenizer.decode([token])!r}), so their shares cannot be told apart; change data.belief_format"
                )
        return firsts


def count_common(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Length of the longest common prefix."""
    return next((at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), min(len(first), len(second)))


def pad_rows(rows: Sequence[Sequence[int]], pad: int) -> tuple[list[list[int]], list[list[int]]]:
    """Ragged rows padded on the right, and their attention mask."""
    width = max(len(row) for row in rows)
    return [[*row, *[pad] * (width - len(row))] for row in rows], [[1] * len(row) + [0] * (width - len(row)) for row in rows]
