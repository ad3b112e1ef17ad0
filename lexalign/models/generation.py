"""Generation settings of a model. Only the end tokens of its generation_config.json are used."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from transformers import GenerationConfig

IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
"""Settings of a generation config that name tokens. The other settings control the sampling."""
OF_THE_FILE = ("transformers_version", "_from_model_config", "do_sample", "temperature", "top_k", "top_p", "use_cache")
"""Settings that do not change the answers, or that every measure sets itself."""


def read_end_tokens(model: Any) -> frozenset[int]:
    """The tokens at which the model's generation config ends an answer; empty if it names none."""
    config = getattr(model, "generation_config", None)
    ids = config.eos_token_id if config is not None else None
    return frozenset(() if ids is None else ids if isinstance(ids, (list, tuple)) else [ids])


def write_end_tokens(model: Any, ends: Iterable[int]) -> None:
    """Make the model's generation config end answers at these tokens, so that the saved model ends answers as in training."""
    ids = sorted(ends)
    for config in list_generation_configs(model):
        config.eos_token_id = ids[0] if len(ids) == 1 else ids


def list_generation_configs(model: Any) -> list[Any]:
    """The generation config of a model, and of the models that it wraps."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "generation_config", None)) is not None}
    return list(configs.values())


def list_ignored_settings(model: Any) -> dict[str, Any]:
    """Sampling settings of the model's generation config that measures ignore: they sample all models in the same way."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return {}
    defaults = GenerationConfig().to_dict()
    return {
        name: value
        for name, value in config.to_diff_dict().items()
        if name not in (*IDS, *OF_THE_FILE) and value is not None and value != defaults.get(name) and value is not False
    }


@contextlib.contextmanager
def use_plain_generation(model: Any, *, ends: Iterable[int], pad: int | None) -> Iterator[None]:
    """Within the block, `model.generate` uses only its arguments and ends at `ends`, so that all models are sampled in the same way."""
    ids = sorted(ends)
    plain_config = GenerationConfig(eos_token_id=ids or None, pad_token_id=pad)
    holders = [module for module in model.modules() if getattr(module, "generation_config", None) is not None]
    old_configs = [module.generation_config for module in holders]
    for module, old_config in zip(holders, old_configs, strict=True):
        module.generation_config = GenerationConfig(**{**plain_config.to_dict(), "bos_token_id": old_config.bos_token_id})
    try:
        yield
    finally:
        for module, old_config in zip(holders, old_configs, strict=True):
            module.generation_config = old_config
