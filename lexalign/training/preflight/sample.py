"""A training row as text in colour: what is trained, and what is only read."""

from typing import Any

from rich.text import Text

from lexalign.config.secrets import clean, escape_control, redact
from lexalign.training.preflight.sequences import Sequence

READ, TRAINED = "dim", "bold green"
NAMES = ("chosen", "rejected")
LONGEST = 700
"""Characters of a sequence that are shown."""


def colour_row(row: list[Sequence], tokenizer: Any) -> Text:
    """The sequences of a row, decoded; trained tokens in bold green, the others dim; what is too long to show is counted."""
    text = Text()
    for name, sequence in zip(NAMES if len(row) == 2 else ("row",), row, strict=True):
        text.append(f"{name}: ", style="bold")
        shown = decode_runs(sequence, tokenizer)
        if len(shown) > LONGEST:
            shown = shown[:LONGEST].append(f" … and {len(shown) - LONGEST} characters more", style="italic")
        text.append(shown).append("\n")
    return text


def decode_runs(sequence: Sequence, tokenizer: Any) -> Text:
    """The tokens of a sequence as text, without secrets and with visible control characters; without colours where a secret spans two."""
    runs = [
        (tokenizer.decode(ids, clean_up_tokenization_spaces=False), TRAINED if trained else READ) for trained, ids in group_runs(sequence)
    ]
    whole = redact("".join(text for text, _ in runs))
    if whole != "".join(redact(text) for text, _ in runs):
        return Text(escape_control(whole), style=READ)
    return Text.assemble(*((clean(text), style) for text, style in runs))


def group_runs(sequence: Sequence) -> list[tuple[bool, list[int]]]:
    """Neighbouring tokens that are alike, in whether they are trained, together."""
    found: list[tuple[bool, list[int]]] = []
    for token, trained in zip(sequence.ids, sequence.trained, strict=True):
        if not found or found[-1][0] != trained:
            found.append((trained, []))
        found[-1][1].append(token)
    return found
