"""Text to token ids: one place that knows how a prompt, a belief and a response become a sequence."""

from collections.abc import Sequence
from typing import Any

from lexalign.config.schema import Data
from lexalign.errors import DataError

MARK = "\u2063response\u2063"
Turns = list[dict[str, str]]


class Renderer:
    """Encodes rows the way the model will meet them: as chat turns where the tokenizer has a template, else as plain text.

    `belief(i)` and `response(text)` are encoded apart from the prompt, so the spans are explicit and no token straddles two of them.
    """

    def __init__(self, tokenizer: Any, data: Data):
        has_template = bool(tokenizer.chat_template)
        if data.chat_template == "always" and not has_template:
            raise DataError("data.chat_template=always: the tokenizer has no chat template; type data.chat_template=never")
        self.tokenizer = tokenizer
        self.data = data
        self.chat = has_template and data.chat_template != "never"
        self._ending: str | None = None
        self._end: tuple[int, list[int]] | None = None

    def settings(self) -> dict[str, Any]:
        """What of the data's settings shapes the ids."""
        return {name: getattr(self.data, name) for name in ("beliefs", "belief_format", "chat_template", "system")}

    def turns(self, prompt: str | Turns) -> Turns:
        """A prompt as chat turns, the system message first."""
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if self.data.system and turns[0]["role"] == "system":
            raise DataError("data.system: a prompt of the data has a system message of its own; type data.system=null")
        system = [{"role": "system", "content": self.data.system}] if self.data.system else []
        return system + turns

    def plain(self, prompt: str | Turns) -> str:
        """A prompt as plain text; raises DataError for turns, which need a template."""
        if isinstance(prompt, str):
            return prompt
        raise DataError("data.columns.prompt holds chat turns, but the tokenizer has no chat template; give prompts as text")

    def prompt(self, prompt: str | Turns) -> list[int]:
        """Ids of the prompt, up to where the response begins."""
        if not self.chat:
            return list(self.tokenizer(self.plain(prompt))["input_ids"])
        text = self.tokenizer.apply_chat_template(self.turns(prompt), tokenize=False, add_generation_prompt=True)
        return self.ids(text)

    def ids(self, text: str) -> list[int]:
        """Ids of a text that continues a sequence: no BOS of its own."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def belief_text(self, index: int) -> str:
        """How the belief with this index is written before its response."""
        assert self.data.beliefs is not None
        return self.data.belief_format.format(index=index, text=self.data.beliefs[index])

    def belief(self, index: int) -> list[int]:
        """Ids of a belief as written."""
        return self.ids(self.belief_text(index))

    def response(self, text: str) -> list[int]:
        """Ids of a response with what ends it: the rest of the assistant's turn, or EOS."""
        return self.ids(text + self.ending())

    def ending(self) -> str:
        """What the chat template writes after an assistant's content, or the EOS token."""
        if self._ending is None:
            if self.chat:
                turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
                self._ending = self.tokenizer.apply_chat_template(turns, tokenize=False).rpartition(MARK)[2]
            else:
                self._ending = self.tokenizer.eos_token
        return self._ending

    def end(self) -> tuple[int, list[int]]:
        """The token at which a response ends, and the ids that the chat template writes after it (a line break, as a rule).

        It is the first special token of `ending`: what a template ends a turn with need not be the tokenizer's EOS token. Where a template
        ends a turn with none, the EOS token stands for the end, and nothing is after it.
        """
        if self._end is None:
            ids = self.ids(self.ending())
            special = {token for token, added in self.tokenizer.added_tokens_decoder.items() if added.special}
            at = next((at for at, token in enumerate(ids) if token in special | {self.tokenizer.eos_token_id}), None)
            self._end = (self.tokenizer.eos_token_id, []) if at is None else (ids[at], ids[at + 1 :])
        return self._end

    def first_belief_tokens(self) -> list[int]:
        """The token each belief begins with; raises DataError naming two beliefs that begin alike."""
        assert self.data.beliefs is not None
        firsts = [self.belief(index)[0] for index in range(len(self.data.beliefs))]
        for index, token in enumerate(firsts):
            if token in firsts[:index]:
                other = firsts.index(token)
                raise DataError(
                    f"data.beliefs: {self.belief_text(other)!r} and {self.belief_text(index)!r} begin with the same token "
                    f"({self.tokenizer.decode([token])!r}), so their shares cannot be told apart; change data.belief_format"
                )
        return firsts


def pad_rows(rows: Sequence[Sequence[int]], pad: int) -> tuple[list[list[int]], list[list[int]]]:
    """Ragged rows padded on the right, and their attention mask."""
    width = max(len(row) for row in rows)
    return [[*row, *[pad] * (width - len(row))] for row in rows], [[1] * len(row) + [0] * (width - len(row)) for row in rows]
