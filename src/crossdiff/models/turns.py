"""Where a model's answer ends: at the chat template's end of a turn, or at an end of its generation
config.
"""

from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CONTENT = ("\ue000", "\ue001", "\ue002")  # stand for the words of turns; no template trims or changes them


def template_ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The id of the token with which the chat template ends an assistant's turn. Empty if it has none.

    It is the first special or added token after the words of the chat's last turn. Some templates end a turn
    only by the header of the next one. Theirs is the first such token before the words of a further turn.
    """
    asked, answered, further = _CONTENT
    chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    for turns in (chat, [*chat, {"role": "user", "content": further}]):
        try:
            text = str(tokenizer.apply_chat_template(turns, tokenize=False))
        except TemplateError:
            continue  # whoever asks the model meets the same error, with the chat's own name
        after = text.partition(answered)[2].partition(further)[0]
        ids = tokenizer(after, add_special_tokens=False)["input_ids"]
        if found := [number for number in ids if _is_marker(number, tokenizer)]:
            return found[:1]
    return []


def _is_marker(number: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a token is special, or added to the vocabulary, and neither blank nor the unknown token."""
    if number == tokenizer.unk_token_id:
        return False
    added = tokenizer.added_tokens_decoder.get(number)
    return number in tokenizer.all_special_ids or (added is not None and bool(str(added).strip()))


def end_turns_as(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let answers of ``model`` also end where the chat template of ``tokenizer`` ends a turn.

    The template's end joins those of the model's generation config, which ``models.answers`` reads.
    """
    given = model.generation_config.eos_token_id
    known = [] if given is None else [given] if isinstance(given, int) else list(given)
    if new := [end for end in template_ends(tokenizer) if end not in known]:
        model.generation_config.eos_token_id = [*known, *new]
