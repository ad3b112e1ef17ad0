"""Separate the answer of a model from the reasoning block before it. No torch."""

import re

OPEN = re.compile(r"\s*<(think|thinking|reasoning)>", re.IGNORECASE)
CLOSE = re.compile(r"</(think|thinking|reasoning)>\s*", re.IGNORECASE)


def strip_reasoning(text: str) -> str:
    """Return an answer without the reasoning before it; empty if the reasoning does not end.

    The generation prompt may already contain the opening tag. So all text before a closing tag is reasoning, even without an opening tag.
    """
    closings = list(CLOSE.finditer(text))
    if closings:
        return text[closings[-1].end() :]
    return "" if OPEN.match(text) else text
