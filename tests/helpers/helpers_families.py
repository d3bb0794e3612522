"""Tiny random language models of many families, each a few blocks of 32 dimensions."""

import torch
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from crossdiff.models.classes import model_class

VOCABULARY = 260  # that of the tokenizer of a random model (models.prepare)
WINDOW = 8  # of sliding attention, shorter than the sequences of the tests
_END = {"eos_token_id": 0, "bos_token_id": None, "pad_token_id": None}
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
} | _END
_GROUPED = _SIZES | {"num_key_value_heads": 2, "head_dim": 8}
_GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 256,
    "initializer_range": 0.2,
} | _END
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
}
_LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
_MLA = _SIZES | _ROUTED | _LATENT | {"num_key_value_heads": 4, "n_group": 2, "topk_group": 1}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_STATE = {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2}
_STATE2 = _STATE | {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_SLIDING = {"sliding_window": WINDOW}
_MIXED = ["linear_attention", "full_attention"] * 2

# Family (model_type of config.json) -> what its configuration says.
FAMILIES: dict[str, dict] = {
    # Plain attention, dense
    "llama": _GROUPED,
    "apertus": _GROUPED,
    "arcee": _GROUPED,
    "biogpt": _SIZES,
    "bitnet": _GROUPED,
    "bloom": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "n_layer": 4,
        "n_head": 4,
        "initializer_range": 0.2,
    }
    | _END,
    "codegen": _GPT | {"rotary_dim": 4},
    "cohere": _GROUPED,
    "cohere2": _GROUPED | _SLIDING,
    "ctrl": _GPT | {"dff": 48},
    "diffllama": _GROUPED,
    "ernie4_5": _GROUPED,
    "exaone4": _GROUPED | _SLIDING | {"sliding_window_pattern": 2},
    "falcon": _SIZES,
    "gemma": _GROUPED,
    "gemma2": _GROUPED
    | _SLIDING
    | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "gemma3_text": _GROUPED | _SLIDING | {"query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    "gemma3n_text": _GROUPED
    | _SLIDING
    | {
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 4,
    },
    "glm": _GROUPED | {"partial_rotary_factor": 0.5},
    "glm4": _GROUPED | {"partial_rotary_factor": 0.5},
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neo": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": WINDOW,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
    }
    | _END,
    "gpt_neox": _SIZES,
    "gptj": _GPT | {"rotary_dim": 4},
    "granite": _GROUPED,
    "helium": _GROUPED,
    "hunyuan_v1_dense": _GROUPED,
    "ministral": _GROUPED | _SLIDING,
    "mistral": _GROUPED | _SLIDING,
    "mpt": {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "n_layers": 4,
        "n_heads": 4,
        "max_seq_len": 256,
        "initializer_range": 0.2,
    }
    | _END,
    "nemotron": _GROUPED,
    "olmo": _GROUPED,
    "olmo2": _GROUPED,
    "olmo3": _GROUPED | _SLIDING,
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "init_std": 0.2,
    }
    | _END,
    "persimmon": _SIZES,
    "phi": _SIZES,
    "phi3": _GROUPED | _SLIDING,
    "qwen2": _GROUPED | _SLIDING | {"use_sliding_window": True, "max_window_layers": 2},
    "qwen3": _GROUPED,
    "seed_oss": _GROUPED,
    "smollm3": _GROUPED,
    "stablelm": _SIZES | {"num_key_value_heads": 2},
    "starcoder2": _GROUPED | _SLIDING,
    "xglm": {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "num_layers": 4,
        "attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 256,
        "init_std": 0.2,
    }
    | _END,
    # Mixture of experts
    "dbrx": {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 4,
        "max_seq_len": 256,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
        "initializer_range": 0.2,
    }
    | _END,
    "deepseek_v2": _MLA | {"topk_method": "greedy", "first_k_dense_replace": 1, "head_dim": 4},
    "deepseek_v3": _MLA | {"first_k_dense_replace": 1},
    "dots1": _GROUPED | _ROUTED | _SLIDING | {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "ernie4_5_moe": _GROUPED
    | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_layer_start_index": 1},
    "flex_olmo": _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2},
    "glm4_moe": _GROUPED | _ROUTED | {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "gpt_oss": _GROUPED | _LOCAL | _SLIDING,
    "granitemoe": _GROUPED | _LOCAL,
    "hunyuan_v1_moe": _GROUPED | {"num_experts": 4, "moe_topk": 2},
    "jetmoe": _SIZES
    | {"num_key_value_heads": 2, "kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "llama4_text": _GROUPED | _LOCAL | {"intermediate_size_mlp": 48, "attention_chunk_size": WINDOW},
    "mixtral": _GROUPED | _LOCAL,
    "olmoe": _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2},
    "phimoe": _GROUPED | _LOCAL,
    "qwen2_moe": _GROUPED | _EXPERTS | {"shared_expert_intermediate_size": 24},
    "qwen3_moe": _GROUPED | _EXPERTS,
    # State-space, linear, recurrent and hybrid
    "bamba": _GROUPED | _STATE2 | {"attn_layer_indices": [1, 3]},
    "falcon_h1": _GROUPED | _STATE2 | {"mamba_d_ssm": 64},
    "falcon_mamba": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "state_size": 8,
        "num_hidden_layers": 4,
        "initializer_range": 0.2,
    }
    | _END,
    "granitemoehybrid": _GROUPED
    | _LOCAL
    | _STATE2
    | {"layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 48},
    "jamba": _GROUPED
    | _STATE
    | {
        "mamba_dt_rank": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "use_mamba_kernels": False,
    },
    "lfm2": _GROUPED | {"layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 8},
    "mamba": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "state_size": 8,
        "num_hidden_layers": 4,
        "initializer_range": 0.2,
    }
    | _END,
    "mamba2": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "state_size": 8,
        "num_hidden_layers": 4,
        "num_heads": 4,
        "head_dim": 16,
        "n_groups": 1,
        "chunk_size": 8,
        "initializer_range": 0.2,
    }
    | _END,
    "minimax": _GROUPED | _LOCAL | {"layer_types": _MIXED, "block_size": 8},
    "nemotron_h": _GROUPED
    | {
        "layers_block_type": ["mamba", "attention", "mlp", "attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "qwen3_5_text": _GROUPED | _LINEAR | {"layer_types": _MIXED},
    "qwen3_next": _GROUPED
    | _EXPERTS
    | _LINEAR
    | {"shared_expert_intermediate_size": 24, "layer_types": _MIXED},
    "recurrent_gemma": _GROUPED
    | {"lru_width": 32, "attention_window_size": WINDOW, "block_types": ["recurrent", "attention"]},
    "rwkv": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 4, "context_length": 256}
    | _END,
    "zamba2": _GROUPED
    | {
        "mamba_d_state": 8,
        "mamba_ngroups": 1,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "chunk_size": 8,
        "num_mem_blocks": 1,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "hybrid_layer_ids": [1, 3],
    },
}


_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
# Vision-language models, of which the text model is compared. Vision and text are equally deep.
VISION_FAMILIES: dict[str, dict] = {
    "gemma3": {"text_config": FAMILIES["gemma3_text"], "vision_config": _VISION, "mm_tokens_per_image": 4},
    "llava": {
        "text_config": {"model_type": "llama"} | FAMILIES["llama"],
        "vision_config": {"model_type": "clip_vision_model"} | _VISION,
        "image_token_id": 259,
    },
    "mistral3": {
        "text_config": {"model_type": "mistral"} | FAMILIES["mistral"],
        "vision_config": {"model_type": "pixtral"} | _VISION | {"head_dim": 8},
        "image_token_id": 259,
    },
    "qwen2_5_vl": {
        "text_config": FAMILIES["qwen2"]
        | {
            "use_sliding_window": False,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0},
        },
        "vision_config": {
            "depth": 4,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [3],
        },
        "image_token_id": 259,
        "video_token_id": 258,
        "vision_start_token_id": 257,
        "vision_end_token_id": 256,
    },
}


def tiny(family: str, seed: int = 0) -> PreTrainedModel:
    """A random model of ``family`` in evaluation mode. Its logits are far from uniform."""
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[family](**(FAMILIES | VISION_FAMILIES)[family])
    return model_class(config).from_config(config).eval()
