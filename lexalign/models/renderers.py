"""The renderer of an experiment: what the settings say, what the model says of where answers end, and what an earlier run recorded."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from lexalign.artifacts.manifest import MANIFEST, read_manifest
from lexalign.artifacts.provenance import Provenance
from lexalign.config.schema import Experiment
from lexalign.data.lengths import Look, RowLengths
from lexalign.data.rendering import Renderer
from lexalign.data.rows import Row, Splits
from lexalign.errors import DataError
from lexalign.models.generation import read_end_tokens, write_end_tokens
from lexalign.models.limits import ModelLimits

log = logging.getLogger(__name__)
TRAINING = ("sft", "align")


def make_renderer(experiment: Experiment, tokenizer: Any, *, model: Any = None, shared_belief: bool = False) -> Renderer:
    """The renderer of an experiment's rows. `model` also says where answers end, and from here on it ends them where the renderer does.

    A stage that trains takes today for the template's date, or the date of the checkpoint that it goes on from. The other stages take the
    date that the model was trained with. `data.template_date` wins over both.
    """
    path = experiment.model.path
    past = Provenance.read(path) if path is not None else Provenance()
    recorded = past.manifest.get("rendering") or {}
    training = experiment.stage.name in TRAINING
    date = experiment.data.template_date or (read_checkpoint_date(experiment) if training else recorded.get("template_date"))
    loss_on = getattr(experiment.method, "loss_on", None) if training else past.setting("method", "loss_on")
    if not training:
        shared_belief = past.rewards.get("shared_belief", True)
    renderer = Renderer(
        tokenizer,
        dataclasses.replace(experiment.data, template_date=date),
        loss_on=loss_on or "auto",
        shared_belief=shared_belief,
        more_end_tokens=recorded.get("end_tokens", ()),
        cuts_prompt=bool(recorded.get("cuts_prompt")),
    )
    if model is not None:
        settle_end_tokens(model, renderer)
    return renderer


def settle_end_tokens(model: Any, renderer: Renderer) -> None:
    """Make the model's generation config end answers where the renderer does, and say so where that is news."""
    before = read_end_tokens(model)
    renderer.more_end_tokens |= before
    if before == renderer.end_tokens:
        return
    write_end_tokens(model, renderer.end_tokens)
    names = renderer.tokenizer.convert_ids_to_tokens(sorted(renderer.end_tokens))
    old = ", ".join(renderer.tokenizer.convert_ids_to_tokens(sorted(before))) or "none"
    log.info("Answers end at %s; the model's generation config named %s", ", ".join(names), old)


def record_rendering(renderer: Renderer) -> dict[str, Any]:
    """What a manifest keeps of the rendering: it is how the model is spoken to."""
    return {
        "template_date": renderer.template_date,
        "cuts_prompt": renderer.cuts_prompt,
        "end_tokens": sorted(renderer.end_tokens),
        "changes": renderer.changes.to_dict(),
    }


def read_checkpoint_date(experiment: Experiment) -> str | None:
    """The date that the run recorded whose checkpoint this one goes on from."""
    if experiment.resume in ("auto", "never") or not (Path(experiment.resume) / MANIFEST).is_file():
        return None
    return (read_manifest(Path(experiment.resume)).get("rendering") or {}).get("template_date")


def check_rendering(renderer: Renderer, splits: Splits) -> None:
    """What can be refused before a row is rendered, and what is trained, in words. Raises DataError."""
    rows = [*splits.train, *splits.held_out]
    after = renderer.added_around[1]
    if after and not renderer.chat and any("prompt" in row for row in rows):
        names = " ".join(renderer.tokenizer.convert_ids_to_tokens(after))
        raise DataError(
            f"the tokenizer writes {names} after every text of its own accord, so a prompt would end where an answer ends, wherever the "
            "model is used; set add_eos_token to false in its tokenizer_config.json and take it out of the post_processor of its "
            "tokenizer.json, or name another with model.tokenizer=<hub id or folder>"
        )
    if splits.train and "chosen" not in splits.train[0] and "label" not in splits.train[0]:
        first = splits.train[0]
        if "completion" in first or "text" in first or "messages" in first:
            log.info("%s", renderer.describe_loss_on(first))


def make_limit_check(model: Any, renderer: Renderer, *, max_length: int, drawn: int = 0, setting: str = "train.max_length") -> Look:
    """What looks whether a model can read rows: raises DataError for ids without an embedding and for rows beyond learned positions, and
    says where rows go beyond the positions that the model was made for."""
    limits = ModelLimits.read(model)
    if len(renderer.tokenizer) > limits.vocabulary:
        log.warning(
            "The tokenizer has %d tokens, the model embeddings of %d: the others cannot be read", len(renderer.tokenizer), limits.vocabulary
        )

    def look(rows: list[Row], measured: list[RowLengths]) -> None:
        strange = [row for row, found in zip(rows, measured, strict=True) if found.largest >= limits.vocabulary]
        if strange:
            raise DataError(describe_unknown_token(strange, renderer, limits.vocabulary))
        longest = max((min(found.longest + drawn, max_length) for found in measured), default=0)
        if limits.learned_positions is not None and longest > limits.learned_positions:
            raise DataError(
                f"rows have up to {longest:,} tokens, but the model has learned {limits.learned_positions:,} positions and can read no "
                f"longer row; type {setting}={limits.learned_positions}"
            )
        if limits.trained_positions is not None and longest > limits.trained_positions:
            log.warning(
                "Rows have up to %d tokens, more than the %d positions that the model was made for: it reads them, but less well",
                *(longest, limits.trained_positions),
            )

    return look


def describe_unknown_token(rows: list[Row], renderer: Renderer, vocabulary: int) -> str:
    """The first token of these rows that the model has no embedding of, and where it stands."""
    row = rows[0]
    token = next(token for sequence in renderer.render_row(row) for token in sequence.ids if token >= vocabulary)
    where = getattr(row, "where", None) or "the first of them"
    return (
        f"the tokenizer has {len(renderer.tokenizer):,} tokens, the model embeddings of {vocabulary:,}: {len(rows):,} rows hold a token "
        f"without one; {where} holds {renderer.tokenizer.convert_ids_to_tokens(token)} ({token}); take such tokens out of the rows, or "
        "name the tokenizer that the model was trained with: model.tokenizer=<hub id or folder>"
    )
