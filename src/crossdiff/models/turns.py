"""What a chat template writes between turns, and where a model's answer ends.

It ends at the template's end of a turn, or at an end of the model's generation config.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from crossdiff.texts.markers import marker_ids
from crossdiff.texts.templates import shown
from crossdiff.texts.unusable import Unusable

if TYPE_CHECKING:  # classes of models take a second to import
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CONTENT = ("\ue000", "\ue001", "\ue002")  # stand for the words of turns; no template trims or changes them


def template_ends(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The id of the token with which the chat template ends an assistant's turn. Empty if it has none.

    It is the first special or added token after the words of the chat's last turn. Some templates end a turn
    only by the header of the next one. Theirs is the first such token before the words of a further turn.
    """
    asked, answered, further = _CONTENT
    chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    markers = marker_ids(tokenizer)
    for turns in (chat, [*chat, {"role": "user", "content": further}]):
        try:
            text = shown(turns, tokenizer)
        except Unusable:
            continue  # whoever asks the model meets the same error, with the chat's own name
        after = text.partition(answered)[2].partition(further)[0]
        ids = tokenizer(after, add_special_tokens=False)["input_ids"]
        if found := [number for number in ids if number in markers]:
            return found[:1]
    return []


def between_turns(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The text that the chat template writes between an answer and the user's next words.

    None without a template, and if it refuses such a chat.
    """
    _, answered, further = _CONTENT
    roles = zip(("user", "assistant", "user"), _CONTENT, strict=True)
    try:
        text = shown([{"role": role, "content": words} for role, words in roles], tokenizer)
    except Unusable:
        return None
    return text.partition(answered)[2].partition(further)[0]


def turn_ends(model: "PreTrainedModel") -> list[int]:
    """The ids of the tokens that end a turn of ``model``, from its generation config. May be empty."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def contents(answers: Sequence[np.ndarray], model: "PreTrainedModel") -> list[np.ndarray]:
    """Answers of ``model``, ids (tokens,) each, without the token that ends the turn."""
    ends = turn_ends(model)
    return [answer[~np.isin(answer, ends)] for answer in answers]


def end_turns_as(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Let answers of ``model`` also end where the chat template of ``tokenizer`` ends a turn.

    The template's end joins those of the model's generation config.
    """
    known = turn_ends(model)
    if new := [end for end in template_ends(tokenizer) if end not in known]:
        model.generation_config.eos_token_id = [*known, *new]
