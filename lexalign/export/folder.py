"""Write the exported folder: under a temporary name first. It gets its name after it was loaded again and compared with the model."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lexalign.artifacts import disk, files
from lexalign.artifacts.manifest import write_manifest
from lexalign.data.rendering import Renderer
from lexalign.errors import ArtifactError
from lexalign.evaluation.scoring import Spans, get_device, make_batches

log = logging.getLogger(__name__)
CARD = "README.md"
LOGITS_APART = 1e-3
"""Largest allowed difference, as a share of the largest logit. It is small because both models have the same weights, type and device."""
ROWS_READ_BACK = 8
TALK = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]


def write_export(
    model: Any, encoder: Renderer, artifact: Path, *, spans: list[Spans], card: str, facts: dict[str, Any], code: bool
) -> None:
    """Save the model with tokenizer, card and manifest, and load it again. The folder gets its name only if everything is the same.

    Raises ArtifactError if something differs; no folder is left then. `code` says whether the model's own code may run.
    """
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    with files.write_folder(artifact) as temporary_folder, disk.require_space(size, artifact.parent, what="the exported model"):
        model.save_pretrained(temporary_folder)
        encoder.tokenizer.save_pretrained(temporary_folder)
        read_back(model, encoder, temporary_folder, spans, code=code)
        (temporary_folder / CARD).write_text(card, encoding="utf-8")
        write_manifest(temporary_folder, {"kind": "model", **facts})


def read_back(model: Any, encoder: Renderer, folder: Path, spans: list[Spans], *, code: bool) -> None:
    """Load a folder. Raises ArtifactError if it does not hold this model and this tokenizer."""
    loaded_tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=code)
    tokenizers = [(encoder.tokenizer, "was"), (loaded_tokenizer, "is")]
    vocabularies, templates = (
        [tokenizer.get_vocab() for tokenizer, _ in tokenizers],
        [render_sample(tokenizer) for tokenizer, _ in tokenizers],
    )
    rows = [sequence.ids for sequence in spans]
    texts = [encoder.tokenizer.decode(ids) for ids in rows]
    ids = [[tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] for tokenizer, _ in tokenizers]
    for what, (before, after) in {"vocabulary": vocabularies, "chat template": templates, "ids of the rows": ids}.items():
        if before != after:
            raise_mismatch(f"its tokenizer's {what} came back as another")
    loaded_model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, trust_remote_code=code)
    compare_weights(model.state_dict(), loaded_model.state_dict())
    difference, largest_logit = compare_logits(model, loaded_model.to(get_device(model)).eval(), spans[:ROWS_READ_BACK])
    if not difference <= LOGITS_APART * largest_logit:
        raise_mismatch(f"its logits came back {difference:.3g} apart, of {largest_logit:.3g} at most (allowed {LOGITS_APART:g} of that)")
    log.info(
        "Written, loaded again and equal: weights, tokenizer, and logits on %d rows (%.1e apart)", len(spans[:ROWS_READ_BACK]), difference
    )


def compare_weights(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    """Compare two models' weights. Raises ArtifactError that names the first weight that is missing or not exactly equal."""
    for name in dict.fromkeys([*before, *after]):
        if name not in before or name not in after:
            raise_mismatch(f"{name} was {'not written' if name not in after else 'made up'} on the way")
        old, new = before[name].cpu(), after[name].cpu()
        if old.shape != new.shape:
            raise_mismatch(f"{name} came back in the shape {tuple(new.shape)}, not {tuple(old.shape)}")
        if not torch.equal(old.to(new.dtype), new):
            raise_mismatch(f"{name} came back {float((old.float() - new.float()).abs().max()):.3g} apart")


@torch.no_grad()
def compare_logits(first: Any, second: Any, spans: list[Spans]) -> tuple[float, float]:
    """Return the largest difference of two models' logits at the scored positions, and the largest logit."""
    difference = largest_logit = 0.0
    for batch in make_batches(spans, batch_size=1, max_length=None, device=get_device(first)):
        first_logits, second_logits = (batch.logits(model).float() for model in (first, second))
        difference, largest_logit = (
            max(difference, float((first_logits - second_logits).abs().max())),
            max(largest_logit, float(first_logits.abs().max())),
        )
    return difference, largest_logit


def render_sample(tokenizer: Any) -> str | None:
    """Render a small conversation with the chat template; None if there is no template."""
    return tokenizer.apply_chat_template(TALK, tokenize=False) if tokenizer.chat_template else None


def raise_mismatch(what: str) -> None:
    """Raise ArtifactError for a folder that differs from the model to export."""
    raise ArtifactError(
        f"stage=export: {what}, so the folder would hold another model, and nothing of it is left; serve the adapter on its base instead "
        "(stage=chat says how)"
    )
