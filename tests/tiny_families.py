"""Tiny random models of many families, made from their configuration classes, wide enough that wrong attention shows."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY, WINDOW = 64, 24
SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "attention_dropout": 0.0, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
    "attn_pdrop": 0.0, "hidden_dropout": 0.0, "moe_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4,
    "num_experts_per_tok": 2,
}  # fmt: skip
LATENT = {
    "head_dim": None, "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 4, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16, "mamba_expand": 2}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
SLIDING = {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 0}
MORE: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": WINDOW},
    "gemma2": {"sliding_window": WINDOW, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "final_logit_softcapping": 5.0,
    },  # fmt: skip
    "gemma3n_text": {
        "sliding_window": WINDOW,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0, 0.0, 0.0],
        "intermediate_size": [48] * 3,
    },  # fmt: skip
    "phi3": {"sliding_window": WINDOW, "resid_pdrop": 0.0},
    "qwen2": SLIDING,
    "qwen2_moe": {**SLIDING, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {"router_aux_loss_coef": 0.01},
    "mixtral": {"router_aux_loss_coef": 0.02},
    "phimoe": {"sliding_window": WINDOW, "router_jitter_noise": 0.0, "input_jitter_noise": 0.0},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 2.0},
    "glm4": {"partial_rotary_factor": 0.5},
    "deepseek_v2": {**LATENT, "topk_method": "greedy"},
    "deepseek_v3": LATENT,
    "glm4_moe_lite": LATENT,
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "qwen3_5_text": {**LINEAR, "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "falcon_mamba": {"state_size": 8, "time_step_rank": 4, "conv_kernel": 4, "expand": 2},
    "xlstm": {"num_heads": 4, "qk_dim_factor": 0.5, "v_dim_factor": 1.0, "chunk_size": 16, "num_blocks": 3},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": WINDOW, "logits_soft_cap": 5.0},
}


def build(family: str, *, spread: float = 0.2, **more: Any) -> Any:
    """A model of the family in evaluation mode, its matrices drawn anew."""
    kind = CONFIG_MAPPING[family]
    known = {
        name: value
        for name, value in SIZE.items()
        if name in kind.__init__.__code__.co_varnames or name in vars(kind()) or name in kind.attribute_map
    }
    settings = {name: value for name, value in {**known, **MORE.get(family, {}), **more}.items() if value is not None}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**settings), dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if not any(part in name for part in ("A_log", "dt_", "conv", ".D", "rg_lru")):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = noise * spread if parameter.dim() > 1 else parameter.data + noise * 0.1
    return model.eval()
