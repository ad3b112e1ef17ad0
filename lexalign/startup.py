"""What need not be imported is not: seconds before the first step."""

import sys
from typing import Any

import torch


def import_bitsandbytes_lightly() -> None:
    """Import bitsandbytes, as PEFT will, without torch's compiler.

    A decorator in it asks `torch.compile` for functions of its CPU fallback, which loads the whole compiler (a second), and takes any
    refusal for an answer: the functions then run as they are.
    """
    if "bitsandbytes" in sys.modules:
        return
    compiler, torch.compile = torch.compile, _refuse  # type: ignore[assignment]
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        pass
    finally:
        torch.compile = compiler


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("not compiled at import")
