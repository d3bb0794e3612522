"""Tiny random language models of two families, with grouped-query attention.

Gemma 2 also has sliding windows and soft caps.
"""

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedModel

D_MODEL = 16
SIZES = {
    "hidden_size": D_MODEL,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "num_hidden_layers": 4,
    "initializer_range": 0.3,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
CAPS = {
    "sliding_window": 6,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "query_pre_attn_scalar": 4,
}
FAMILIES = {
    "llama": lambda **sizes: LlamaConfig(**sizes),
    "gemma2": lambda **sizes: Gemma2Config(**CAPS, **sizes),
}


def tiny_model(family: str, vocabulary: int, seed: int) -> PreTrainedModel:
    """A random model of ``family``; its logits are far from uniform."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(FAMILIES[family](vocab_size=vocabulary, **SIZES)).eval()
