"""Values that look like a token."""

import re
from collections.abc import Mapping
from typing import Any

SECRET = re.compile(r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|[0-9a-f]{40}(?![0-9a-f]))\b")
COMMIT_KEYS = ("revision", "tokenizer_revision")


def secrets(node: Any, where: str = "") -> list[str]:
    """Values that look like a token: they would end up in files and folder names."""
    if isinstance(node, Mapping):
        return [problem for key, value in node.items() for problem in secrets(value, f"{where}.{key}" if where else str(key))]
    if isinstance(node, (list, tuple)):
        return [problem for i, item in enumerate(node) for problem in secrets(item, f"{where}[{i}]")]
    if isinstance(node, str) and where.rpartition(".")[2] not in COMMIT_KEYS and SECRET.search(node):
        return [f"{where}: looks like a token or key; settings are written to disk, so give it as HF_TOKEN or WANDB_API_KEY instead"]
    return []
