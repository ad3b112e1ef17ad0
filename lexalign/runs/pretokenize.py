"""What is done once, before there are several processes: the rows become tokens, which each process then finds in the store."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from lexalign.config.schema import Experiment
from lexalign.data import rows as data_rows
from lexalign.rewards.panel import Panel

log = logging.getLogger(__name__)


def pretokenize(experiment: Experiment, out_dir: Path) -> None:
    """Fill the token store. Raises DataError and ConfigError where a row or a reward is wrong.

    The trainer itself does it, with its own code, on a model that is none: a layer of eight units.
    """
    assert experiment.method is not None and experiment.train is not None and experiment.adapter is not None
    splits = data_rows.load_rows(experiment)
    Panel.from_experiment(experiment)
    from lexalign.models.setup import prepare_process

    prepare_process(experiment, rows=len(splits.train))
    from lexalign.cache.tokens import TokenCache
    from lexalign.data import lengths
    from lexalign.data.rendering import Renderer
    from lexalign.models import loading
    from lexalign.training import pipeline

    settings = experiment.model
    assert settings.path is not None
    tokenizer = loading.load_tokenizer(experiment, loading.find_source(settings.path, settings.revision))
    encoder = Renderer(tokenizer, experiment.data)
    tokens = TokenCache.of(experiment, encoder)
    speech = logging.getLogger("lexalign")
    before = speech.level
    speech.setLevel(logging.ERROR)  # the first process will say the same of the model itself
    try:
        lengths.fit_lengths(splits, tokens.lengths, max_length=experiment.train.max_length, drawn=lengths.count_drawn_tokens(experiment))
        full = dataclasses.replace(experiment.adapter, kind="full", bits=None)
        stand_in = loading.LoadedModel(
            model=ignore_rows(tokenizer), tokenizer=tokenizer, base={"path": "none", "revision": None}, inherited=None
        )
        pipeline.get_trainer_class(experiment)(
            experiment=dataclasses.replace(experiment, adapter=full),
            loaded=stand_in,
            splits=splits,
            encoder=encoder,
            tokens=tokens,
            out_dir=out_dir,
            callbacks=[],
        )
    finally:
        speech.setLevel(before)
    log.info("Tokens: %d rows made, %d from the store", tokens.made, tokens.reused)


def ignore_rows(tokenizer: Any) -> Any:
    """A model of the tokenizer's vocabulary that computes next to nothing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    return LlamaForCausalLM(config)
