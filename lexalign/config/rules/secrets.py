"""Values that look like a token."""

from collections.abc import Mapping
from typing import Any

from lexalign.config.secrets import SHAPED, list_secrets

WHOLE = 16
"""Characters from which a secret of this process is looked for in settings: a shorter one may be a word."""
COMMIT_KEYS = ("revision", "tokenizer_revision")


def check_secrets(node: Any, where: str = "") -> list[str]:
    """Values that look like a token: they would end up in files and folder names."""
    if isinstance(node, Mapping):
        return [problem for key, value in node.items() for problem in check_secrets(value, f"{where}.{key}" if where else str(key))]
    if isinstance(node, (list, tuple)):
        return [problem for i, item in enumerate(node) for problem in check_secrets(item, f"{where}[{i}]")]
    if (
        isinstance(node, str)
        and where.rpartition(".")[2] not in COMMIT_KEYS
        and (SHAPED.search(node) or any(len(secret) >= WHOLE and secret in node for secret in list_secrets()))
    ):
        return [f"{where}: looks like a token or key; settings are written to disk, so give it as HF_TOKEN or WANDB_API_KEY instead"]
    return []
