"""Our trainer on a very small model of a family, with rows given as ids; what tests hold against TRL and against plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from small_models import adapted, made

from lexalign.cache.tokens import TokenCache
from lexalign.config.compose import compose
from lexalign.config.paths import EMBEDDED
from lexalign.data import rows as data_rows
from lexalign.data.rendering import Renderer
from lexalign.models.loading import LoadedModel
from lexalign.training import pipeline
from lexalign.training.trainer import MethodTrainer

PAIRS = [
    {"prompt": [1, 5, 9, 7], "chosen": [11, 12, 13, 2], "rejected": [11, 14, 2]},
    {"prompt": [1, 6, 8], "chosen": [20, 21, 2], "rejected": [22, 23, 24, 25, 26, 2]},
    {"prompt": [1, 30, 31, 32, 33, 34], "chosen": [35, 2], "rejected": [36, 37, 2]},
    {"prompt": [1, 40], "chosen": [41, 42, 43, 44, 45, 2], "rejected": [46, 2]},
    {"prompt": [1, 50, 51], "chosen": [52, 2], "rejected": [53, 54, 2]},
    {"prompt": [1, 55, 56, 57], "chosen": [58, 59, 2], "rejected": [3, 4, 60, 2]},
    {"prompt": [1, 10, 15, 16], "chosen": [17, 18, 2], "rejected": [19, 27, 28, 2]},
    {"prompt": [1, 29, 38], "chosen": [39, 47, 2], "rejected": [48, 49, 2]},
]
"""Pairs of token ids below small_models.VOCABULARY."""


def sequence(
    context: list[int], response: list[int], *, belief: list[int] | None = None, weights: list[float] | None = None
) -> dict[str, Any]:
    """A sequence as a data set holds it."""
    return {"context": context, "belief": belief or [], "response": response, "weights": weights}


def pair_rows(pairs: list[dict[str, Any]] = PAIRS, **columns: list[Any]) -> list[dict[str, Any]]:
    """Rows of pairs, with further columns."""
    rows = [
        {"sequences": [sequence(pair["prompt"], pair[side], belief=pair.get("belief")) for side in ("chosen", "rejected")]}
        for pair in pairs
    ]
    return [{**row, **{name: values[at] for name, values in columns.items()}} for at, row in enumerate(rows)]


def answer_rows(labels: list[int] | None = None, *, step: int = 8) -> list[dict[str, Any]]:
    """Rows of single responses; with labels, kto's, whose mismatched responses are those of the row before within a step."""
    own = [sequence(pair["prompt"], pair["chosen"]) for pair in PAIRS]
    if labels is None:
        return [{"sequences": [one]} for one in own]
    from lexalign.trainers.kto import KtoObjective

    rows = [{"sequences": [one], "label": label} for one, label in zip(own, labels, strict=True)]
    return KtoObjective.prepare_rows(None, rows, step=step, max_length=64)  # type: ignore[arg-type]


def make_trainer(folder: Path, *words: str, family: str = "llama_tied", model: Any = None) -> MethodTrainer:
    """The trainer that a run of `words` has, on a very small model of a family whose adapter is not zero."""
    stage = "sft" if "method=lora" in words else "align"
    common = ("model=tiny", "tracking=none", "data.limit=16", "hardware.threads=1", "train.max_length=64", "evaluate.enabled=false")
    experiment = compose([f"stage={stage}", *words, *common, f"store={folder}/store", f"output_dir={folder}/run"]).experiment
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "tiny")
    renderer = Renderer(tokenizer, experiment.data)
    loaded = LoadedModel(model=model or made(family), tokenizer=tokenizer, base={"path": "none", "revision": None}, inherited=None)
    trainer = pipeline.make_trainer(
        experiment, loaded=loaded, splits=data_rows.load_rows(experiment), renderer=renderer,
        tokens=TokenCache.of(experiment, renderer), out_dir=folder / "run", callbacks=[],
    )  # fmt: skip
    torch.manual_seed(1)
    for name, parameter in trainer.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    trainer.model.train()
    return trainer


def copy_weights(source: Any, target: Any) -> None:
    """Give one model the trained weights of another of the same shape."""
    weights = dict(source.named_parameters())
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(weights[name])


def loss_and_gradient(trainer: MethodTrainer, rows: list[dict[str, Any]], *, size: int | None = None) -> tuple[float, torch.Tensor]:
    """The loss and the gradient of one optimizer step over rows, in batches of `size`."""
    size = size or len(rows)
    batches = [trainer.data_collator(rows[at : at + size]) for at in range(0, len(rows), size)]
    totals = trainer.count_totals(batches)
    trainer.model.zero_grad(set_to_none=True)
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=totals)
        loss.backward()
        total += float(loss.detach())
    return total, gradient_by_name(trainer.model)


def gradient_by_name(model: Any) -> torch.Tensor:
    """The gradient of what is trained, in the order of the names."""
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is not None}
    return torch.cat([found[name].float().flatten() for name in sorted(found)])


__all__ = ["PAIRS", "adapted", "made"]
