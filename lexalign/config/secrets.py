"""What counts as a secret, and texts without any: settings that hold one are refused, messages that would are redacted."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

TOKEN = r"hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}"
SHAPED = re.compile(rf"\b({TOKEN}|[0-9a-f]{{40}}(?![0-9a-f]))\b")
"""What looks like a token; forty hex digits are a W&B key, or a commit where a commit may stand."""
IN_MESSAGES = re.compile(rf"\b({TOKEN})\b|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
"""Tokens, and a user with a password in an address; commits are no secret in a message."""
NAMES = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|CREDENTIALS?)$", re.IGNORECASE)
SHORTEST = 8
"""Characters from which the value of a variable with such a name is taken for a secret."""
HIDDEN = "[secret]"


def list_secrets() -> list[str]:
    """The secrets of this process: variables whose name says so, and the hub's token on the disk; longest first."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    file = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
    try:
        stored = [file.read_text(encoding="utf-8").strip()]
    except (OSError, UnicodeDecodeError):
        stored = []
    values = [value for name, value in os.environ.items() if NAMES.search(name)]
    return sorted({value for value in (*values, *stored) if len(value) >= SHORTEST}, key=len, reverse=True)


def redact(text: str) -> str:
    """A text without the secrets of this process and without what is shaped like one."""
    return make_redactor()(text)


def make_redactor() -> Callable[[str], str]:
    """`redacted` for many texts: the secrets are looked up once."""
    secrets = list_secrets()

    def redact(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, HIDDEN)
        return IN_MESSAGES.sub(HIDDEN, text)

    return redact


class RedactingFormatter(logging.Formatter):
    """Formats records, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
