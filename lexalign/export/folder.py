"""The exported folder: written aside, read back, compared with what was written, and only then named."""

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
"""Of the largest logit: both models have the same weights, in the same type, on the same device."""
ROWS_READ_BACK = 8
TALK = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]


def write_export(
    model: Any, encoder: Renderer, artifact: Path, *, spans: list[Spans], card: str, facts: dict[str, Any], code: bool
) -> None:
    """Save the model with tokenizer, card and manifest, and load it again: the folder gets its name where everything came back the same.

    Raises ArtifactError where something did not; nothing is left then. `code`: whether the model's own code may be run.
    """
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    with files.write_folder(artifact) as aside, disk.require_space(size, artifact.parent, what="the exported model"):
        model.save_pretrained(aside)
        encoder.tokenizer.save_pretrained(aside)
        read_back(model, encoder, aside, spans, code=code)
        (aside / CARD).write_text(card, encoding="utf-8")
        write_manifest(aside, {"kind": "model", **facts})


def read_back(model: Any, encoder: Renderer, folder: Path, spans: list[Spans], *, code: bool) -> None:
    """Raise ArtifactError where a folder does not hold this model and this tokenizer."""
    again = AutoTokenizer.from_pretrained(folder, trust_remote_code=code)
    told = [(encoder.tokenizer, "was"), (again, "is")]
    vocabularies, templates = [tokenizer.get_vocab() for tokenizer, _ in told], [render_sample(tokenizer) for tokenizer, _ in told]
    rows = [sequence.ids for sequence in spans]
    texts = [encoder.tokenizer.decode(ids) for ids in rows]
    ids = [[tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] for tokenizer, _ in told]
    for what, (before, after) in {"vocabulary": vocabularies, "chat template": templates, "ids of the rows": ids}.items():
        if before != after:
            raise_mismatch(f"its tokenizer's {what} came back as another")
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, trust_remote_code=code)
    compare_weights(model.state_dict(), loaded.state_dict())
    found, largest = compare_logits(model, loaded.to(get_device(model)).eval(), spans[:ROWS_READ_BACK])
    if not found <= LOGITS_APART * largest:
        raise_mismatch(f"its logits came back {found:.3g} apart, of {largest:.3g} at most (allowed {LOGITS_APART:g} of that)")
    log.info("Written, loaded again and equal: weights, tokenizer, and logits on %d rows (%.1e apart)", len(spans[:ROWS_READ_BACK]), found)


def compare_weights(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    """Raise ArtifactError naming the first weight that is not there, or not the same to the bit."""
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
    """Largest difference of two models' logits at the scored positions, and the largest logit."""
    apart = largest = 0.0
    for batch in make_batches(spans, batch_size=1, max_length=None, device=get_device(first)):
        one, other = (batch.logits(model).float() for model in (first, second))
        apart, largest = max(apart, float((one - other).abs().max())), max(largest, float(one.abs().max()))
    return apart, largest


def render_sample(tokenizer: Any) -> str | None:
    """A small conversation as the chat template writes it; None without one."""
    return tokenizer.apply_chat_template(TALK, tokenize=False) if tokenizer.chat_template else None


def raise_mismatch(what: str) -> None:
    """Raise ArtifactError: the folder is not what was to be written."""
    raise ArtifactError(
        f"stage=export: {what}, so the folder would hold another model, and nothing of it is left; serve the adapter on its base instead "
        "(stage=chat says how)"
    )
