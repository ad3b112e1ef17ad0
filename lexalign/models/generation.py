"""How a model generates: where its answers end, and nothing else of what stands in its generation_config.json."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from transformers import GenerationConfig

IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
"""What a generation config says of tokens; the rest says how they are drawn."""
OF_THE_FILE = ("transformers_version", "_from_model_config", "do_sample", "temperature", "top_k", "top_p", "use_cache")
"""Settings that say nothing of the answers, or that every measure sets itself."""


def read_end_tokens(model: Any) -> frozenset[int]:
    """The tokens at which the model's generation config ends an answer; none where it names none."""
    config = getattr(model, "generation_config", None)
    ids = config.eos_token_id if config is not None else None
    return frozenset(() if ids is None else ids if isinstance(ids, (list, tuple)) else [ids])


def write_end_tokens(model: Any, ends: Iterable[int]) -> None:
    """Make the model's generation config end answers at these tokens: what is saved of it stops where training ended an answer."""
    wanted = sorted(ends)
    for config in list_generation_configs(model):
        config.eos_token_id = wanted[0] if len(wanted) == 1 else wanted


def list_generation_configs(model: Any) -> list[Any]:
    """The generation config of a model, and of the models that it wraps."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "generation_config", None)) is not None}
    return list(configs.values())


def list_ignored_settings(model: Any) -> dict[str, Any]:
    """What the model's generation config says of drawing that measures do not follow: they draw all models alike."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return {}
    plain = GenerationConfig().to_dict()
    return {
        name: value
        for name, value in config.to_diff_dict().items()
        if name not in (*IDS, *OF_THE_FILE) and value is not None and value != plain.get(name) and value is not False
    }


@contextlib.contextmanager
def use_plain_generation(model: Any, *, ends: Iterable[int], pad: int | None) -> Iterator[None]:
    """Within the block, `model.generate` draws by what it is given alone and ends at `ends`: two models are drawn alike."""
    wanted = sorted(ends)
    plain = GenerationConfig(eos_token_id=wanted or None, pad_token_id=pad)
    holders = [module for module in model.modules() if getattr(module, "generation_config", None) is not None]
    before = [module.generation_config for module in holders]
    for module, old in zip(holders, before, strict=True):
        module.generation_config = GenerationConfig(**{**plain.to_dict(), "bos_token_id": old.bos_token_id})
    try:
        yield
    finally:
        for module, old in zip(holders, before, strict=True):
            module.generation_config = old
