"""Thoughts of thinking models: switched off by the chat template, or left out of what a reader sees."""

import logging
from bisect import bisect_left
from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from crossdiff.texts.markers import THOUGHTS
from crossdiff.texts.templates import shown
from crossdiff.texts.unusable import Unusable

log = logging.getLogger(__name__)

# Names of the template argument that switches thinking on and off.
ARGUMENTS = ("enable_thinking", "thinking")

_LAST = 24  # tokens at the end of a prompt among which a thought may be opened


class Said(NamedTuple):
    """An answer as a reader sees it."""

    text: str  # without special tokens and thoughts
    thought: bool  # whether a thought was left out
    unfinished: bool  # whether nothing is left without the thought, so that a reader sees nothing


def without_thinking(tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedTokenizerBase, str | None]:
    """A tokenizer whose chat template switches thinking off, and the name of the argument that does so.

    A template knows an argument if its value changes the prompt. If it knows none, the tokenizer itself and
    None are given.
    """
    chat = [{"role": "user", "content": "a"}]
    for name in ARGUMENTS:
        try:
            on, off = (shown(chat, tokenizer, ask=True, **{name: value}) for value in (True, False))
        except Unusable:
            break  # whoever asks the model meets the same error, with the chat's own name
        if on != off:
            changed = copy(tokenizer)
            # "+" keeps a line break at the start of the template. A value that the template itself sets wins.
            changed.chat_template = f"{{% set {name} = false +%}}{tokenizer.get_chat_template()}"
            log.info("thinking is switched off by the chat template's argument %s", name)
            return changed, name
    return tokenizer, None


def said(
    prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase
) -> list[Said]:
    """What a reader sees of each answer to its prompt. Both are ids, (tokens,) each.

    A thought stands at the start of an answer, between two of ``THOUGHTS``. The prompt may open it. A model
    may leave out the first of the two, if the second is a token or stands in the template. Such an end does
    not count where the prompt has closed the thought, as templates do that switch thinking off.
    """
    known = [end for end in THOUGHTS.values() if _knows(tokenizer, end)]
    return [
        _said(prompt.tolist(), answer.tolist(), tokenizer, known)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _knows(tokenizer: PreTrainedTokenizerBase, marker: str) -> bool:
    """Whether a marker stands in the chat template, or is one token."""
    token = tokenizer.convert_tokens_to_ids(marker)
    return marker in str(tokenizer.chat_template) or token not in (None, tokenizer.unk_token_id)


def _said(prompt: list[int], answer: list[int], tokenizer: PreTrainedTokenizerBase, known: list[str]) -> Said:
    asked, text = str(tokenizer.decode(prompt[-_LAST:])).rstrip(), str(tokenizer.decode(answer))
    end = next((end for start, end in THOUGHTS.items() if asked.endswith(start)), None)
    bare = [] if asked.endswith(tuple(THOUGHTS.values())) else known  # a prompt may have closed the thought
    place, thought = 0, end is not None  # the thought's end in characters, and whether there is one
    while end := end or _closing(text[place:], bare):
        head, found, rest = text[place:].partition(end)
        if not found:
            return Said("", thought=True, unfinished=True)
        thought = thought or bool(head.strip())
        place, end, bare = len(text) - len(rest), None, []
    seen = _after(answer, text[:place], tokenizer)
    return Said(seen.lstrip() if place else seen, thought, unfinished=bool(place) and not seen.strip())


def _closing(text: str, bare: list[str]) -> str | None:
    """The marker that closes the thought with which ``text`` begins; None if it begins with none.

    A thought that ends with one of ``bare`` needs no marker at its start.
    """
    opened = (end for start, end in THOUGHTS.items() if text.lstrip().startswith((start, end)))
    return next(opened, None) or next((end for end in bare if end in text), None)


def _after(answer: list[int], before: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The answer's text without special tokens, after the text ``before`` with which it begins."""
    first = bisect_left(
        range(len(answer)), True, key=lambda count: str(tokenizer.decode(answer[:count])).startswith(before)
    )
    whole = str(tokenizer.decode(answer[:first])) if before else ""
    return whole[len(before) :] + str(tokenizer.decode(answer[first:], skip_special_tokens=True))
