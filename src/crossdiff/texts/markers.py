"""Tokens that templates write around turns, and texts that enclose thoughts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# How families open and close a thought.
THOUGHTS = {
    **{f"<{name}>": f"</{name}>" for name in ("think", "thinking", "thought", "reasoning", "seed:think")},
    "[THINK]": "[/THINK]",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "\u25c1think\u25b7": "\u25c1/think\u25b7",
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",
}


def marker_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """The ids of special tokens and of tokens added to the vocabulary, but for blank and unknown ones."""
    added = tokenizer.added_tokens_decoder.items()
    found = {number for number, token in added if token.content.strip()}
    return (found | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
