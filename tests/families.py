"""Tokenizers with the chat templates of real model families, and tiny random models for them. Templates are read from the installed trl."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import lexalign.embedded

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
ROWS = Path(lexalign.embedded.__file__).parent / "data/tiny_sft/train.jsonl"
MARKERS = re.compile(r"<[|｜][^<>'\"\s{}]+[|｜]>|<(?:bos|eos|pad|end_of_turn|start_of_turn|end_of_utterance|turn\||\|turn)>")
THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
OWN = {
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "trimming": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
}
ENDS = {
    "qwen3": "<|im_end|>",
    "gemma": "<eos>",
    "llama3_2": "<|eot_id|>",
    "gptoss": "<|return|>",
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>",
}
"""EOS where it is a token of the template; elsewhere it is </s>."""
FAMILIES = (
    "cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma3", "gptoss", "lfm2", "llama3", "llama3_2", "phi3", "qwen2_5",
    "qwen3", "qwen3_5_think", "qwen3_instruct_2507", "nemotron_3_nano", *OWN,
)  # fmt: skip


def read_template(name: str) -> str:
    """The template of a family."""
    return OWN[name] if name in OWN else (TEMPLATES / f"{name}.jinja").read_text()


@cache
def train_bpe(special: tuple[str, ...]) -> str:
    """A byte-level tokenizer trained on the embedded data, as JSON."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = [str(value) for line in ROWS.open() for value in json.loads(line).values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(texts, trainer)
    return inner.to_str()


def make_tokenizer(name: str | None, *, adds: str = "", eos: str | None = "</s>") -> Any:
    """The tokenizer of a family, or one without a template; `adds` names what it writes around every text: bos, eos, or both."""
    source = read_template(name) if name else None
    markers = sorted(set(MARKERS.findall(source or "")) | ({"<|user|>", "<|assistant|>"} if name == "trimming" else set()))
    special = tuple(dict.fromkeys(["<s>", "</s>", *markers, *([ENDS[name]] if name in ENDS else [])]))
    inner = Tokenizer.from_str(train_bpe(special))
    if adds:
        single = " ".join(["<s>"] * ("bos" in adds) + ["$A"] + ["</s>"] * ("eos" in adds))
        known = [(token, inner.token_to_id(token)) for token in ("<s>", "</s>")]
        inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=known)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token=ENDS.get(name or "", eos) if eos else None, pad_token="<s>"
    )
    tokenizer.add_tokens(list(THINK))
    tokenizer.chat_template = source
    return tokenizer


def make_model(tokenizer: Any, *, vocabulary: int | None = None) -> LlamaForCausalLM:
    """A random model of two layers for a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary or len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def save_family(name: str | None, folder: Path, **tokenizer: Any) -> Path:
    """A folder with a family's tokenizer and a tiny model."""
    made = make_tokenizer(name, **tokenizer)
    make_model(made).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder
