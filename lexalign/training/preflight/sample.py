"""A training row as text in colour: what is trained, and what is only read."""

from typing import Any

from rich.text import Text

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
        shown = Text()
        for trained, ids in group_runs(sequence):
            shown.append(tokenizer.decode(ids, clean_up_tokenization_spaces=False), style=TRAINED if trained else READ)
        if len(shown) > LONGEST:
            shown = shown[:LONGEST].append(f" … and {len(shown) - LONGEST} characters more", style="italic")
        text.append(shown).append("\n")
    return text


def group_runs(sequence: Sequence) -> list[tuple[bool, list[int]]]:
    """Neighbouring tokens that are alike, in whether they are trained, together."""
    found: list[tuple[bool, list[int]]] = []
    for token, trained in zip(sequence.ids, sequence.trained, strict=True):
        if not found or found[-1][0] != trained:
            found.append((trained, []))
        found[-1][1].append(token)
    return found
