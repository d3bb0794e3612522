"""Thoughts of thinking models: switched off by the chat template, or left out of what a reader sees."""

import logging
from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

# Names of the template argument that switches thinking on and off.
ARGUMENTS = ("enable_thinking", "thinking")

# How families open and close a thought.
MARKERS = {
    **{f"<{name}>": f"</{name}>" for name in ("think", "thinking", "thought", "reasoning", "seed:think")},
    "[THINK]": "[/THINK]",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "\u25c1think\u25b7": "\u25c1/think\u25b7",
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",
}
_LAST = 24  # tokens at the end of a prompt among which a thought may be opened


class Said(NamedTuple):
    """An answer as a reader sees it."""

    text: str  # without special tokens and thoughts
    thought: bool  # whether a thought was left out
    unfinished: bool  # whether the answer ends inside a thought, so that a reader sees nothing


def without_thinking(tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedTokenizerBase, str | None]:
    """A tokenizer whose chat template switches thinking off, and the name of the argument that does so.

    A template knows an argument if its value changes the prompt. If it knows none, the tokenizer itself and
    None are given.
    """
    for name in ARGUMENTS:
        try:
            on, off = (_prompt(tokenizer, {name: value}) for value in (True, False))
        except (TemplateError, ValueError):
            break  # whoever asks the model meets the same error, with the chat's own name
        if on != off:
            changed = copy(tokenizer)
            # "+" keeps a line break at the start of the template. A value that the template itself sets wins.
            changed.chat_template = f"{{% set {name} = false +%}}{tokenizer.get_chat_template()}"
            log.info("thinking is switched off by the chat template's argument %s", name)
            return changed, name
    return tokenizer, None


def _prompt(tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any]) -> str:
    chat = [{"role": "user", "content": "a"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **arguments)
    return str(text)


def said(
    prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase
) -> list[Said]:
    """What a reader sees of each answer to its prompt. Both are ids, (tokens,) each.

    A thought stands at the start of an answer, between two of ``MARKERS``. The prompt may open it.
    """
    plain = tokenizer.batch_decode([answer.tolist() for answer in answers], skip_special_tokens=True)
    return [
        _said(prompt, answer, text, tokenizer)
        for prompt, answer, text in zip(prompts, answers, plain, strict=True)
    ]


def _said(prompt: np.ndarray, answer: np.ndarray, plain: str, tokenizer: PreTrainedTokenizerBase) -> Said:
    asked = str(tokenizer.decode(prompt[-_LAST:].tolist())).rstrip()
    rest = str(tokenizer.decode(answer.tolist()))
    opened = next((end for start, end in MARKERS.items() if asked.endswith(start)), None)
    thought = False
    while end := opened or _closing(rest):
        opened, thought = None, True
        _, found, rest = rest.partition(end)
        if not found:
            return Said("", thought, unfinished=True)
    if not thought:
        return Said(plain, thought, unfinished=False)
    for token in tokenizer.all_special_tokens:
        rest = rest.replace(token, "")
    return Said(rest.lstrip(), thought, unfinished=False)


def _closing(text: str) -> str | None:
    """The marker that closes the thought with which ``text`` begins; None if it begins with none.

    A thought that only closes was opened by a model that leaves out its first marker.
    """
    for start, end in MARKERS.items():
        if text.lstrip().startswith(start) or end in text:
            return end
    return None
