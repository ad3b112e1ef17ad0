"""The block in which a model thinks before it answers, apart from the answer. No torch."""

import re

OPEN = re.compile(r"\s*<(think|thinking|reasoning)>", re.IGNORECASE)
CLOSE = re.compile(r"</(think|thinking|reasoning)>\s*", re.IGNORECASE)


def strip_reasoning(text: str) -> str:
    """An answer without the reasoning in front of it; empty where the reasoning does not come to an end.

    A generation prompt may have opened the block already, so what stands before a closing tag is reasoning even without an opening one.
    """
    closings = list(CLOSE.finditer(text))
    if closings:
        return text[closings[-1].end() :]
    return "" if OPEN.match(text) else text
