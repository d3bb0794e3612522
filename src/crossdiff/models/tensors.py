"""The names of a model's tensors: which prefixes may be stripped, and which tensors may be left unused.

Torch-free.
"""

import re
from collections.abc import Container, Iterable

# What wraps a model puts these before names. The model inside is the same.
_ANYWHERE = r"_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"  # torch.compile, FSDP, checkpoints
_IN_FRONT = r"module|base_model\.model"  # DataParallel and DeepSpeed; peft
WRAPPER = rf"^(?:(?:{_IN_FRONT}|{_ANYWHERE})\.)+|(?:(?:{_ANYWHERE})\.)+"

# Parts that no job uses -> why. They stand outside the model's blocks.
UNUSED_PARTS = {
    r"(^|\.)(visual|vision_tower|vision_model|vision_encoder|vision_embed\w*|embed_vision|img_processor)\.": (
        "reads images"
    ),
    r"(^|\.)(multi_modal_projector|mm_projector|vision_projection|image_newline|connector)\.": (
        "brings images to the text model"
    ),
    r"(^|\.)(audio_tower|audio_model|audio_encoder|audio_projector|embed_audio)\.": "reads sound",
    r"(^|\.)(mtp|mtp_layers|mtp_block|nextn_predict_layers)\.": "predicts tokens after the next one",
    r"(^|\.)(v_head|value_head)\.": "judges answers, in reinforcement learning",
}
# Tensors that no job uses, in blocks too -> why.
UNUSED_TENSORS = {
    r"(^|\.)(rotary_emb|rotary|rotary_pos_emb)\.inv_freq$": "follows from the configuration",
    r"(^|\.)(attn|attention|self_attn|self_attention)\.(masked_bias|causal_mask)$": "is a fixed mask",
    r"(^|\.)position_ids$": "counts positions",
}
# A fixed mask too, if it has this number of dimensions. With one it would be a bias that the model lacks.
_MASK = re.compile(r"(^|\.)(attn|attention|self_attn|self_attention)\.bias$")
MASK_DIMENSIONS = 4
_BLOCK = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def has_adapter(names: Iterable[str]) -> bool:
    """Whether tensors of an adapter (LoRA) are among ``names``."""
    return any("lora_" in name for name in names)


def stripped(name: str) -> str:
    """The name of a tensor without the prefixes of what wrapped its model."""
    return re.sub(WRAPPER, "", name)


def unknown(names: Iterable[str], blocks: int, predicting: int, masks: Container[str] = ()) -> list[str]:
    """Those of ``names`` that belong to no part that is known to be unused, sorted.

    ``blocks`` is the number of the model's blocks. Up to ``predicting`` further ones predict tokens after the
    next one (multi-token prediction), and are not used. ``masks`` are the names of tensors with
    MASK_DIMENSIONS dimensions.
    """

    def known(name: str) -> bool:
        block = _BLOCK.search(name)
        if block is not None and blocks <= int(block[1]) < blocks + predicting:
            return True
        outside = re.split(r"\.\d+\.", name)[0] + "."  # of the first list of blocks
        return (
            any(re.search(pattern, outside) for pattern in UNUSED_PARTS)
            or any(re.search(pattern, name) for pattern in UNUSED_TENSORS)
            or (name in masks and _MASK.search(name) is not None)
        )

    return sorted(name for name in names if not known(name))
