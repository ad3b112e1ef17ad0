"""Shows a training row as text, with the trained tokens in colour."""

from typing import Any

from rich.text import Text

from lexalign.config.secrets import clean, escape_control, redact
from lexalign.training.preflight.sequences import Sequence

READ, TRAINED = "dim", "bold green"
NAMES = ("chosen", "rejected")
LONGEST = 1000
"""Number of characters shown of a sequence. Its runs of trained and untrained tokens share them."""
SHORTEST = 160
"""Number of characters shown of each run at least."""


def colour_row(row: list[Sequence], tokenizer: Any, *, is_pair: bool) -> Text:
    """The decoded sequences of a row (two of a pair, several of a packed row). Trained tokens are bold green, the others dim.

    The middle of a long run is replaced by its number of characters.
    """
    text = Text()
    for name, sequence in zip(NAMES if is_pair else ("row",) * len(row), row, strict=True):
        text.append(f"{name}: ", style="bold")
        runs = decode_runs(sequence, tokenizer)
        run_length = max(SHORTEST, LONGEST // max(1, len(runs)))
        for run_text, style in runs:
            text.append(shorten_middle(run_text, run_length), style=style)
        text.append("\n")
    return text


def shorten_middle(text: str, length: int) -> str:
    """The text. If it is longer than `length`, its middle is replaced by the number of characters left out."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2]} […{len(text) - 2 * (length // 2):,} characters…] {text[-(length // 2) :]}"


def decode_runs(sequence: Sequence, tokenizer: Any) -> list[tuple[str, str]]:
    """The tokens of a sequence as texts with their styles, without secrets and with visible control characters.

    If a secret spans two runs, the result is one text without colours.
    """
    runs = [
        (tokenizer.decode(ids, clean_up_tokenization_spaces=False), TRAINED if trained else READ) for trained, ids in group_runs(sequence)
    ]
    whole = redact("".join(text for text, _ in runs))
    if whole != "".join(redact(text) for text, _ in runs):
        return [(escape_control(whole), READ)]
    return [(clean(text), style) for text, style in runs]


def group_runs(sequence: Sequence) -> list[tuple[bool, list[int]]]:
    """Group the tokens into runs. All tokens of a run are trained, or none is."""
    runs: list[tuple[bool, list[int]]] = []
    for token, trained in zip(sequence.ids, sequence.trained, strict=True):
        if not runs or runs[-1][0] != trained:
            runs.append((trained, []))
        runs[-1][1].append(token)
    return runs
