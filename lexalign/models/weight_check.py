"""Check that the files of a base hold exactly the weights of its model. transformers fills missing ones with random numbers."""

import logging
import re
from collections.abc import Iterable
from typing import Any

from lexalign.errors import ConfigError

log = logging.getLogger(__name__)
COMPUTED = re.compile(
    r"(^|\.)(inv_freq|original_inv_freq|masked_bias|position_ids|num_batches_tracked)$|\.attn(ention)?\.(bias|masked_bias)$"
)
"""Buffers that a model computes itself and some files hold."""
UNUSED = re.compile(
    r"(^|\.)(vision|visual|image|audio|speech|multi_modal|mm_|mtp|nextn|embed_vision|embed_audio)[^.]*(\.|$)|(^|\.)\w*_projector\."
)
"""Parts that a text model does not have: towers and projectors for images and sound, heads that predict several tokens."""
SHOWN = 3


def refuse_other_weights(path: str, info: dict[str, Any]) -> None:
    """Raise ConfigError if files lack weights of the model, or hold weights that the model does not have.

    `info` is the loading info of `from_pretrained(..., output_loading_info=True)`.
    """
    missing = sorted(name for name in info["missing_keys"] if not COMPUTED.search(name))
    unexpected = [name for name in info["unexpected_keys"] if not COMPUTED.search(name)]
    unused = sorted(name for name in unexpected if UNUSED.search(name))
    others = sorted(set(unexpected) - set(unused))
    if missing:
        raise ConfigError(
            f"model.path={path}: its files lack {count_weights(missing)}, which would be random numbers; fetch or save the model again, "
            "or correct its config.json"
        )
    if others:
        raise ConfigError(
            f"model.path={path}: its files hold {count_weights(others)}, for which its config.json has no place; they would be left out. "
            "Correct config.json, or save the model again"
        )
    if unused:
        log.info("model.path=%s: %s are left out: a model for text has no place for them", path, count_weights(unused))


def count_weights(names: Iterable[str]) -> str:
    """Return the number of weights and the first names."""
    names = list(names)
    first_names = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return f"{len(names)} weight{'s' if len(names) > 1 else ''} ({first_names})"
