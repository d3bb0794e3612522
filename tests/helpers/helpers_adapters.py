"""Tiny LoRA adapters, trained nowhere, whose change of the model is visible."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

TARGETS = ["q_proj", "v_proj", "down_proj"]


def write_adapter(
    base: Path,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    rows: int | None = None,
    **settings,
) -> torch.nn.Module:
    """Write a random LoRA adapter of the model in ``base`` to ``folder``. Return the model as peft runs it.

    With ``rows``, the embeddings are resized and saved with the adapter.
    """
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
        settings.setdefault("modules_to_save", ["embed_tokens", "lm_head"])
    settings = {"r": 4, "lora_alpha": 16, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | settings
    adapted = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.normal_(std=0.2)
    adapted.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return adapted.eval()
