"""Models, tokenizers and rows of the bench: made here from a seed, nothing is downloaded."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


@dataclass(frozen=True)
class Shape:
    """A Llama model's size; `head` is the LM head's share of the FLOPs of a token that passes all of it."""

    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int

    @property
    def layer_weights(self) -> int:
        return 3 * self.hidden**2 + 3 * self.hidden * self.inner  # half as many key and value heads

    @property
    def body(self) -> int:
        return self.layers * self.layer_weights

    @property
    def head(self) -> float:
        return self.hidden * self.vocabulary / (self.body + self.hidden * self.vocabulary)


SHAPES = {"s25": Shape(384, 1024, 6, 6, 8192), "s60": Shape(256, 704, 14, 4, 65536), "g25": Shape(2048, 5632, 16, 16, 32768)}


@dataclass(frozen=True)
class Rows:
    """Lengths of prompts and responses in words, each drawn between half and three halves of its mean."""

    prompt: int
    response: int
    count: int
    kind: str


WORKLOADS = {
    "W1": Rows(prompt=96, response=96, count=64, kind="sft"),
    "W2": Rows(prompt=192, response=32, count=24, kind="dpo"),
    "W3": Rows(prompt=48, response=120, count=24, kind="dpo"),
    "W4": Rows(prompt=192, response=32, count=12, kind="dpo"),
    # For a GPU.
    "G1": Rows(prompt=384, response=384, count=64, kind="sft"),
    "G2": Rows(prompt=768, response=128, count=24, kind="dpo"),
    "G3": Rows(prompt=192, response=480, count=24, kind="dpo"),
    "W5": Rows(prompt=0, response=0, count=24, kind="dpo"),  # rows as `real` finds them
}


def make_model(folder: Path, shape: Shape) -> None:
    """A model with random weights and a tokenizer whose words are w0, w1, …"""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads // 2, tie_word_embeddings=False, max_position_embeddings=4096,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {word: at for at, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(shape.vocabulary - len(SPECIAL)))])}
    rules = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rules, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)


def make_rows(folder: Path, rows: Rows, shape: Shape) -> int:
    """`train.jsonl`; the tokens of all rows with a prompt counted once, EOS included."""
    chance = random.Random(0)
    total = 0

    def words(mean: int) -> str:
        nonlocal total
        count = chance.randint(mean // 2, mean + mean // 2)
        total += count
        return " ".join(f"w{chance.randrange(shape.vocabulary - len(SPECIAL))}" for _ in range(count))

    folder.mkdir(parents=True, exist_ok=True)
    columns = ("completion",) if rows.kind == "sft" else ("chosen", "rejected")
    with (folder / "train.jsonl").open("w") as file:
        for _ in range(rows.count):
            row = {"prompt": words(rows.prompt)}
            for column in columns:
                row[column] = f" {words(rows.response)} </s>"
                total += 1
            file.write(json.dumps(row) + "\n")
    return total


def ideal_flops(shape: Shape, rows: Rows) -> float:
    """FLOPs of one row at the means: each token once through the frozen body and back, only response tokens at the head, causal attention.

    Two products a weight forward, two backward for the gradient of the input; the adapter's own products are left out, so the bound is low.
    """
    responses = 1 if rows.kind == "sft" else 2
    tokens = rows.prompt + responses * (rows.response + 1)
    seen = rows.prompt**2 / 2 + responses * (rows.response * rows.prompt + rows.response**2 / 2)
    attention = 3 * shape.layers * 4 * seen * shape.hidden  # forward once, backward twice
    return 4 * shape.body * tokens + 4 * shape.hidden * shape.vocabulary * responses * (rows.response + 1) + attention
