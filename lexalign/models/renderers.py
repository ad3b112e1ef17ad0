"""Make the renderer of an experiment from its settings, the model's end tokens, and the records of an earlier run."""

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
    """The renderer of an experiment's rows. If `model` is given, renderer and model get the same end tokens.

    In a stage that trains, the date of the template is today, or the date of the checkpoint that the run resumes. In the other stages it
    is the date that the model was trained with. `data.template_date` takes precedence over both.
    """
    path = experiment.model.path
    provenance = Provenance.read(path) if path is not None else Provenance()
    rendering = provenance.manifest.get("rendering") or {}
    is_training = experiment.stage.name in TRAINING
    date = experiment.data.template_date or (read_checkpoint_date(experiment) if is_training else rendering.get("template_date"))
    loss_on = getattr(experiment.method, "loss_on", None) if is_training else provenance.setting("method", "loss_on")
    if not is_training:
        shared_belief = provenance.rewards.get("shared_belief", True)
    renderer = Renderer(
        tokenizer,
        dataclasses.replace(experiment.data, template_date=date),
        loss_on=loss_on or "auto",
        shared_belief=shared_belief,
        more_end_tokens=rendering.get("end_tokens", ()),
        cuts_prompt=bool(rendering.get("cuts_prompt")),
    )
    if model is not None:
        settle_end_tokens(model, renderer)
    return renderer


def settle_end_tokens(model: Any, renderer: Renderer) -> None:
    """Give the model's generation config the end tokens of the renderer, and log the change if there is one."""
    old_ends = read_end_tokens(model)
    renderer.more_end_tokens |= old_ends
    if old_ends == renderer.end_tokens:
        return
    write_end_tokens(model, renderer.end_tokens)
    names = renderer.tokenizer.convert_ids_to_tokens(sorted(renderer.end_tokens))
    old_names = ", ".join(renderer.tokenizer.convert_ids_to_tokens(sorted(old_ends))) or "none"
    log.info("Answers end at %s; the model's generation config named %s", ", ".join(names), old_names)


def record_rendering(renderer: Renderer) -> dict[str, Any]:
    """The facts about the rendering that a manifest keeps. Later stages render prompts with them."""
    return {
        "template_date": renderer.template_date,
        "cuts_prompt": renderer.cuts_prompt,
        "end_tokens": sorted(renderer.end_tokens),
        "changes": renderer.changes.to_dict(),
    }


def read_checkpoint_date(experiment: Experiment) -> str | None:
    """The date in the record of the checkpoint that this run resumes; None if there is none."""
    if experiment.resume in ("auto", "never") or not (Path(experiment.resume) / MANIFEST).is_file():
        return None
    return (read_manifest(Path(experiment.resume)).get("rendering") or {}).get("template_date")


def check_rendering(renderer: Renderer, splits: Splits) -> None:
    """Check the tokenizer before a row is rendered, and log what is trained. Raises DataError if the tokenizer appends an end token."""
    rows = [*splits.train, *splits.held_out]
    ids_after = renderer.added_around[1]
    if ids_after and not renderer.chat and any("prompt" in row for row in rows):
        names = " ".join(renderer.tokenizer.convert_ids_to_tokens(ids_after))
        raise DataError(
            f"the tokenizer writes {names} after every text of its own accord, so a prompt would end where an answer ends, wherever the "
            "model is used; set add_eos_token to false in its tokenizer_config.json and take it out of the post_processor of its "
            "tokenizer.json, or name another with model.tokenizer=<hub id or folder>"
        )
    if splits.train and "chosen" not in splits.train[0] and "label" not in splits.train[0]:
        first_row = splits.train[0]
        if "completion" in first_row or "text" in first_row or "messages" in first_row:
            log.info("%s", renderer.describe_loss_on(first_row))


def make_limit_check(model: Any, renderer: Renderer, *, max_length: int, drawn: int = 0, setting: str = "train.max_length") -> Look:
    """A function that checks whether a model can read rows.

    It raises DataError for ids without an embedding and for rows that are longer than the learned positions. It warns about rows that are
    longer than the positions in the model's configuration.
    """
    limits = ModelLimits.read(model)
    if len(renderer.tokenizer) > limits.vocabulary:
        log.warning(
            "The tokenizer has %d tokens, the model embeddings of %d: the others cannot be read", len(renderer.tokenizer), limits.vocabulary
        )

    def look(rows: list[Row], measured: list[RowLengths]) -> None:
        unknown_rows = [row for row, lengths in zip(rows, measured, strict=True) if lengths.largest >= limits.vocabulary]
        if unknown_rows:
            raise DataError(describe_unknown_token(unknown_rows, renderer, limits.vocabulary))
        longest = max((min(lengths.longest + drawn, max_length) for lengths in measured), default=0)
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
    """A message about the first token of these rows that has no embedding in the model, with its place."""
    row = rows[0]
    token = next(token for sequence in renderer.render_row(row) for token in sequence.ids if token >= vocabulary)
    where = getattr(row, "where", None) or "the first of them"
    return (
        f"the tokenizer has {len(renderer.tokenizer):,} tokens, the model embeddings of {vocabulary:,}: {len(rows):,} rows hold a token "
        f"without one; {where} holds {renderer.tokenizer.convert_ids_to_tokens(token)} ({token}); take such tokens out of the rows, or "
        "name the tokenizer that the model was trained with: model.tokenizer=<hub id or folder>"
    )
