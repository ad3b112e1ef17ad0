"""Tokenises the rows once, before several processes start. Each process then reads them from the store."""

import logging
from pathlib import Path

from lexalign.config.schema import Experiment
from lexalign.data import rows as data_rows
from lexalign.rewards.panel import Panel

log = logging.getLogger(__name__)


def pretokenize(experiment: Experiment, out_dir: Path) -> None:
    """Fill the token store. Raises DataError if a row is wrong, ConfigError if a reward is wrong."""
    assert experiment.method is not None and experiment.train is not None and experiment.adapter is not None
    splits = data_rows.load_rows(experiment)
    Panel.from_experiment(experiment)
    from lexalign.models.setup import prepare_process

    prepare_process(experiment, rows=len(splits.train))
    from lexalign.cache.tokens import TokenCache
    from lexalign.data import lengths
    from lexalign.models import loading
    from lexalign.models.renderers import make_renderer
    from lexalign.training import pipeline
    from lexalign.training.objective import Objective

    settings = experiment.model
    assert settings.path is not None
    tokenizer = loading.load_tokenizer(experiment, loading.find_source(settings.path, settings.revision))
    shared_belief = getattr(pipeline.get_method_class(experiment), "shared_belief", False)
    encoder = make_renderer(experiment, tokenizer, shared_belief=shared_belief)
    tokens = TokenCache.of(experiment, encoder)
    logger = logging.getLogger("lexalign")
    level = logger.level
    logger.setLevel(logging.ERROR)  # the first process will log the same messages
    try:
        lengths.fit_lengths(splits, tokens.lengths, max_length=experiment.train.max_length, drawn=lengths.count_drawn_tokens(experiment))
        method_class = pipeline.get_method_class(experiment)
        if issubclass(method_class, Objective):  # prompts for generated answers are not stored
            from lexalign.training.trainer import prepare_rows

            objective = method_class(experiment.method, encoder)
            for name in ("train", *(["held_out"] if experiment.train.eval_steps else [])):
                prepare_rows(experiment, objective, splits, encoder, tokens, name=name)
    finally:
        logger.setLevel(level)
    log.info("Tokens: %d rows made, %d from the store", tokens.made, tokens.reused)
