"""Finds prompts whose text contains an end token or a BOS. The model would read it as the end of an answer or the start of a sequence."""

from collections.abc import Iterator

from lexalign.data.rendering import Renderer
from lexalign.data.rows import Row
from lexalign.training.preflight.rows import NAMED, round_up_share


def find_ended_prompts(rows: list[Row], renderer: Renderer, *, allowed: float) -> list[str]:
    """The problem as a list of one text, if too many training rows have a prompt with an end token or a BOS; else an empty list."""
    tokenizer = renderer.tokenizer
    ids = {*renderer.end_tokens, *([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id])}
    tokens = tokenizer.convert_ids_to_tokens(sorted(ids))
    faults = [(row, token) for row in rows if (token := find_token(row, tokens)) is not None]
    share = len(faults) / max(1, len(rows))
    if share <= allowed:
        return []
    first = "; ".join(f"{getattr(row, 'where', None) or 'a row'} holds {token}" for row, token in faults[:NAMED])
    return [
        f"{len(faults):,} of {len(rows):,} training rows have a prompt that holds a token which ends an answer, or a BOS: take it out, "
        f"or allow it with preflight.max_ended_prompts={round_up_share(share)}: {first}"
    ]


def find_token(row: Row, tokens: list[str]) -> str | None:
    """The first of these tokens in the prompt texts of a row; None if there is none."""
    return next((token for text in list_prompt_texts(row) for token in tokens if token in text), None)


def list_prompt_texts(row: Row) -> Iterator[str]:
    """The texts of a row that are input to the model: prompt, system text, and messages of others than the assistant."""
    for value in (row.get("prompt", ()), row.get("messages", ()), row.get("system", ())):
        yield from [value] if isinstance(value, str) else (turn["content"] for turn in value if turn["role"] != "assistant")
