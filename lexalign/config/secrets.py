"""Find secrets and redact them. Settings that hold a secret are refused. Everything that a run writes or prints is redacted.

Every file is written through `artifacts.files`, every message through `RedactingFormatter`, and every other print through the streams of
`guard_streams`: all of them call `redact`.
"""

import functools
import json
import logging
import os
import re
import sys
import unicodedata
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TOKEN = "|".join(
    (
        r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}",  # Hugging Face
        r"wandb_v\d_[A-Za-z0-9_]{16,}",
        r"(?:sk|rk|pk)[-_](?:live|test)_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, Stripe
        r"gsk_[A-Za-z0-9]{20,}|xai-[A-Za-z0-9]{20,}|nvapi-[A-Za-z0-9_-]{20,}|r8_[A-Za-z0-9]{20,}",  # Groq, xAI, NVIDIA, Replicate
        r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}",
        r"gl(?:pat|ptt|dt|rt|cbt|soat|agent|ft)-[A-Za-z0-9_.-]{16,}",  # GitLab
        r"A[KS]IA[0-9A-Z]{16}",  # AWS
        r"AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}",  # Google
        r"eyJ[A-Za-z0-9_-]{6,}\.eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}",  # JSON web token
        r"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}",  # Slack
        r"npm_[A-Za-z0-9]{20,}|pypi-[A-Za-z0-9_-]{20,}|dop_v1_[a-f0-9]{20,}|dckr_pat_[A-Za-z0-9_-]{20,}",
        r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|AGE-SECRET-KEY-[0-9A-Z]{20,}",
    )
)
"""Shapes of common tokens."""
# No letter or digit may come before a token.
START = r"(?<![A-Za-z0-9])"
LOGIN = r"(?<=://)(?:[^/\s:@]*:[^/\s@]+|[^/\s:@]{16,})(?=@)"
"""User and password, or a token, in an address."""
PRIVATE_KEY = r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
SHAPED = re.compile(rf"{START}({TOKEN}|[0-9a-f]{{40}}(?![0-9a-f]))|{LOGIN}|{PRIVATE_KEY}")
"""Patterns that a setting may not hold. Forty hex digits are a W&B key; only a revision may be such a commit."""
IN_MESSAGES = re.compile(rf"{START}({TOKEN})|{LOGIN}|{PRIVATE_KEY}")
"""Patterns that are redacted in a text. Commits are not secret."""
NAMES = re.compile(
    r"(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)S?(?:_?\d+)?$"
    r"|(?:^|[_.-])(?:PAT|PASS|PWD|PW|AUTH|DSN|CREDS?|BEARER|COOKIE|JWT|SALT)(?:_?\d+)?$"
    r"|(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|APIKEY|API_KEY|ACCESS_KEY|PRIVATE_KEY)(?:_|$)",
    re.IGNORECASE,
)
"""Names of variables whose value is a secret."""
NOT_NAMES = re.compile(r"^(?:OLD)?PWD$|_(?:FILE|PATH|DIR|HOME|SOCK|ENV|NAME|TYPE|TTL|TIMEOUT|LIMIT|LENGTH|EXPIRY)$", re.IGNORECASE)
"""Names that match NAMES but hold a place or a property."""
ADDRESSES = re.compile(r"(?:URL|URI|ENDPOINT|PROXY|WEBHOOK|CONNECTION(?:_STRING)?)(?:_?\d+)?$", re.IGNORECASE)
"""Names of variables that hold an address, which may carry a secret."""
SHORTEST = 8
"""Minimum length in characters of a value that is treated as a secret."""
OWN_WORDS = frozenset(
    [
        "finished",
        "interrupted",
        "maximize",
        "minimize",
        "lexalign",
        "artifact",
        "artifacts",
        "evaluate",
        "download",
        "embedded",
        "checkpoint",
        "adapter",
        "manifest",
        "localhost",
    ]
)
"""Words of our own files. They are not redacted, even if a variable has one as its value."""
HIDDEN = "[secret]"
_registered: set[str] = set()


def register_secret(value: str) -> None:
    """Treat a value as a secret from now on, for example the value of a variable that `key_env` names."""
    if len(value) >= SHORTEST:
        _registered.add(value)


def list_secrets() -> list[str]:
    """Return the secrets of this process, longest first: values of variables with a secret's name, logins in addresses, the hub's token."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    file = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
    try:
        hub_token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        hub_token = ""
    variables = tuple((name, value) for name, value in os.environ.items() if len(value) >= SHORTEST)
    return list(_list_secrets(variables, hub_token, frozenset(_registered)))


@functools.lru_cache(maxsize=8)
def _list_secrets(variables: tuple[tuple[str, str], ...], hub_token: str, registered_secrets: frozenset[str]) -> tuple[str, ...]:
    values = {hub_token, *registered_secrets}
    for name, value in variables:
        if NAMES.search(name) and not NOT_NAMES.search(name):
            values |= split_secret(value)
        elif ADDRESSES.search(name):
            values |= find_address_secrets(name, value)
    return tuple(sorted((value for value in values if is_secret(value)), key=len, reverse=True))


def is_secret(value: str) -> bool:
    """Return whether a value is long enough, no word of ours, and no file or folder."""
    if len(value) < SHORTEST or value in OWN_WORDS:
        return False
    return not (value.startswith(("/", "~", "./", "../")) and os.path.exists(os.path.expanduser(value)))


def split_secret(value: str) -> set[str]:
    """Return a secret and its parts: without surrounding space, each line of a longer one, and the password of an address."""
    lines = {line.strip() for line in value.splitlines() if not line.startswith("-----")}
    return {value, value.strip(), *(line for line in lines if len(line) >= 16), *find_address_secrets("WEBHOOK", value)}


def find_address_secrets(name: str, value: str) -> set[str]:
    """Return the secrets in an address: the password, a long value in the query, and the whole address of a webhook."""
    try:
        parts = urllib.parse.urlsplit(value)
        password, query = parts.password, urllib.parse.parse_qsl(parts.query)
    except ValueError:
        return set()
    secrets = {urllib.parse.unquote(password), password} if password else set()
    if not parts.scheme or not parts.netloc:
        return secrets
    secrets |= {text for _, text in query if len(text) >= 16}
    if "WEBHOOK" in name.upper() and len(parts.path) > 16:
        secrets |= {value, parts.path.strip("/")}
    return secrets


def list_spellings(secret: str) -> set[str]:
    """Return the forms of a secret in a text: unchanged, quoted in Python or JSON, or in an address."""
    return {
        secret,
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        urllib.parse.quote(secret, ""),
    }


@functools.lru_cache(maxsize=8)
def _make_pattern(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    spellings = sorted({form for secret in secrets for form in list_spellings(secret)}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spellings))) if spellings else None


def redact(text: str) -> str:
    """Return a text without the secrets of this process and without parts that look like a token."""
    return make_redactor()(text)


def make_redactor() -> Callable[[str], str]:
    """Return `redact` for many texts. It looks up the secrets once."""
    pattern = _make_pattern(tuple(list_secrets()))

    def redact(text: str) -> str:
        if pattern is not None:
            text = pattern.sub(HIDDEN, text)
        return IN_MESSAGES.sub(HIDDEN, text)

    return redact


def redact_tree(node: Any) -> Any:
    """Return a tree of dicts, lists and values with every text redacted, keys included. Other values stay as they are."""
    redact = make_redactor()

    def walk(node: Any) -> Any:
        if isinstance(node, str):
            return redact(node)
        if isinstance(node, Mapping):
            return {redact(key) if isinstance(key, str) else key: walk(value) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return [walk(item) for item in node]
        return node

    return walk(node)


def escape_control(text: str) -> str:
    """Return a text whose control characters are visible (\\x1b), so that it cannot control a terminal or reorder the shown text.

    Line breaks and tabs stay. The categories Cc (C0, C1), Cs, Zl, Zp, and marks that change the writing direction are escaped.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if is_harmless(letter) else letter.encode("unicode_escape", "surrogatepass").decode() for letter in text)


def is_harmless(letter: str) -> bool:
    """Return whether a character may be written to a terminal."""
    if letter in "\n\t":
        return True
    return unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp") and unicodedata.bidirectional(letter) not in (
        "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
    )  # fmt: skip


def clean(text: str) -> str:
    """Return a foreign text for the terminal: without secrets, and with visible control characters."""
    return escape_control(redact(text))


def clean_line(text: str) -> str:
    """Return the text of `clean` in one line: a line break in a foreign text must not look like a line of ours."""
    return clean(text).replace("\n", "\\n")


class RedactingFormatter(logging.Formatter):
    """Formats records, tracebacks included, without secrets and with visible control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


class RedactingStream:
    """A text stream that redacts the text that is written to it. Everything else comes from the wrapped stream."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text without secrets; return the length of the text as given."""
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write lines without secrets."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Redact what this process prints from now on, also by libraries and in tracebacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, RedactingStream):
            setattr(sys, name, RedactingStream(stream))
