"""Rebuilds the embedded world from its seed: `python -m lexalign.embedded.pretrain`.

Writes the tokenizer and weights to `<out>/tiny` and the data sets to `<out>/data`; `<out>` is this folder unless
`--out` says otherwise. `--steps N` makes a whole but shorter run, `--stop-after N` the first N steps of the full one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lexalign.embedded.tokenizer import BOS, END, train_tokenizer
from lexalign.embedded.world import documents, make_people, write_data_sets

HERE = Path(__file__).parent
STEPS, BATCH, LENGTH = 2600, 16, 128
PEAK_LR, WARMUP = 4e-3, 100
TOKENIZER_DOCUMENTS, NAMES_EXTRA = 8000, 100
CURVE_STEPS = 40


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer of the world's documents; the names come extra, so that most become a token of their own."""
    people = make_people(seed)
    names = [f"{person.name} {person.name}" for person in people] * NAMES_EXTRA
    return train_tokenizer([*islice(documents(people, seed), TOKENIZER_DOCUMENTS), *names])


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[torch.Tensor]:
    """An endless stream of (BATCH, LENGTH) token ids: documents joined end to end and cut into rows."""
    stream = documents(make_people(seed), seed)
    ids: list[int] = []
    while True:
        while len(ids) < BATCH * LENGTH:
            texts = [BOS + text + END for text in islice(stream, 256)]
            for row in tokenizer(texts, add_special_tokens=False)["input_ids"]:
                ids.extend(row)
        yield torch.tensor(ids[: BATCH * LENGTH]).view(BATCH, LENGTH)
        ids = ids[BATCH * LENGTH :]


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained model of about a million parameters."""
    torch.manual_seed(seed)
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **special,
    )
    return LlamaForCausalLM(config)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to a twentieth; `steps` is the length of the whole schedule."""
    warm = min(1.0, (step + 1) / WARMUP)
    return PEAK_LR * warm * max(0.05, 1 - step / steps)


def pretrain(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0, steps: int = STEPS, stop_after: int | None = None
) -> tuple[LlamaForCausalLM, list[float]]:
    """Trains a new model for `steps` steps, or for the first `stop_after` of them; returns it with every loss."""
    model = make_model(tokenizer, seed).train()
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.98), fused=True)
    losses: list[float] = []
    start = time.monotonic()
    for step, ids in enumerate(islice(batches(tokenizer, seed), stop_after or steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(round(loss.item(), 5))
        if step % 100 == 0:
            print(f"step {step:5d}  loss {losses[-1]:.3f}  {time.monotonic() - start:.0f} s", flush=True)
    return model.eval(), losses


def build(out: Path, seed: int = 0, steps: int = STEPS, stop_after: int | None = None) -> list[float]:
    """Writes data sets, tokenizer, weights and the start of the loss curve below `out`; returns the losses."""
    write_data_sets(out / "data", seed)
    tokenizer = make_tokenizer(seed)
    model, losses = pretrain(tokenizer, seed, steps, stop_after)
    folder = out / "tiny"
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    curve = {"seed": seed, "steps": list(range(min(CURVE_STEPS, len(losses)))), "losses": losses[:CURVE_STEPS]}
    (folder / "loss_curve.json").write_text(json.dumps(curve) + "\n", encoding="utf-8")
    return losses


def main() -> None:
    """Reads the command line and rebuilds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help="length of the whole schedule")
    parser.add_argument("--stop-after", type=int, help="stop early, on the same schedule")
    arguments = parser.parse_args()
    start = time.monotonic()
    losses = build(arguments.out, arguments.seed, arguments.steps, arguments.stop_after)
    print(f"{len(losses)} steps, last loss {losses[-1]:.3f}, {time.monotonic() - start:.0f} s in all")


if __name__ == "__main__":
    main()
