"""Refuse values that look like a token."""

from collections.abc import Mapping
from typing import Any

from lexalign.config.secrets import IN_MESSAGES, SHAPED, list_secrets

WHOLE = 16
"""Minimum length of a secret of this process that is always searched for in settings. A shorter secret is skipped if it is only letters."""
COMMIT_KEYS = ("revision", "tokenizer_revision")
"""Settings that may hold forty hex digits."""


def check_secrets(node: Any, where: str = "") -> list[str]:
    """Return the problems of values that look like a token, or hold a password: they would be written to files and folder names."""
    if isinstance(node, Mapping):
        return [problem for key, value in node.items() for problem in check_secrets(value, f"{where}.{key}" if where else str(key))]
    if isinstance(node, (list, tuple)):
        return [problem for i, item in enumerate(node) for problem in check_secrets(item, f"{where}[{i}]")]
    if isinstance(node, str) and (
        (IN_MESSAGES if where.rpartition(".")[2] in COMMIT_KEYS else SHAPED).search(node)
        or any(secret in node for secret in list_secrets() if len(secret) >= WHOLE or not secret.isalpha())
    ):
        return [f"{where}: looks like a token or key; settings are written to disk, so give it as HF_TOKEN or WANDB_API_KEY instead"]
    return []
