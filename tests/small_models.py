"""Real but very small causal language models of several families, made here, with LoRA whose B is not zero."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 61
SIZE = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
FAMILIES = {
    "llama_tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZE, tie_word_embeddings=True)),
    "llama_untied": lambda: LlamaForCausalLM(LlamaConfig(**{**SIZE, "num_key_value_heads": 4}, tie_word_embeddings=False)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZE, head_dim=8)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SIZE,
            head_dim=8,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            final_logit_softcapping=5.0,
        )
    ),
}
LLAMA = FAMILIES["llama_tied"]


def made(family: str, *, seed: int = 0) -> torch.nn.Module:
    """A model of the family, its weights wide enough that wrong attention shows."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    widen(model)
    return model.eval()


def widen(model: torch.nn.Module) -> None:
    """Spread the initial weights of the matrices."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)


def gpt2() -> torch.nn.Module:
    """A model with learned absolute positions."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2))


def adapted(model: torch.nn.Module, *, dropout: float = 0.0, **settings) -> torch.nn.Module:
    """The model with LoRA on every linear layer, B drawn rather than zero."""
    torch.manual_seed(1)
    wrapped = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM", **settings)
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return wrapped


def gradient(model: torch.nn.Module) -> torch.Tensor:
    """The gradient of everything that is trained, in one vector."""
    return torch.cat([p.grad.float().flatten() for p in model.parameters() if p.requires_grad and p.grad is not None])


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative error; fails where there is nothing to compare with."""
    assert wanted.norm() > 0
    return float((found - wanted).norm() / wanted.norm())
