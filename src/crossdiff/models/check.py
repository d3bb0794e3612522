"""Check a model before anything expensive is computed with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError
from crossdiff.models.adapters import base_folder
from crossdiff.models.files import has_tokenizer
from crossdiff.models.load import check_weights
from crossdiff.models.quantised import asked_bits, few_bits
from crossdiff.models.tokenizers import load_tokenizer, text_config
from crossdiff.models.turns import between_turns
from crossdiff.models.weight_files import read_config

MOST_MOVED = 100  # tokens of one vocabulary that may have another id in the other
MOST_RENAMED = 10  # at most one token in so many may have another name


def check_model(folder: str | Path, tokenizer: str | Path, layer: int) -> dict[str, Any]:
    """Facts of the model in ``folder``.

    They are d_model, layers, family; vocabulary, the number of the chat tokenizer's tokens; rows, the number
    of ids that the model's embedding has; and tokens of the chat tokenizer as id -> token: rowless, those
    beyond these rows, and unknown and moved (``compared``), which are None if the model has no tokenizer.
    few_bits says in words that weights have 8 or 4 bits, and is None for others. between_turns is what the
    model's own chat template writes between an answer and the user's next words, or None.

    ``tokenizer`` is the folder of the chat tokenizer, ``layer`` a 0-based block. Raises UserError if the
    layer does not exist, if the folder lacks weights of its model, or if its tokenizer has another
    vocabulary.
    """
    config, name = text_config(folder), Path(folder).name
    if layer >= config.num_hidden_layers:
        raise UserError(
            f"layer: found {layer}, the model {name} has layers 0 to {config.num_hidden_layers - 1}"
        )
    check_weights(folder)
    chat = load_tokenizer(tokenizer)
    vocabulary = chat.get_vocab()
    own = load_tokenizer(folder) if has_tokenizer(folder) else None
    unknown, moved = compared(vocabulary, own.get_vocab(), name) if own is not None else (None, None)
    # Padding is masked, so it may lack a row of the embedding. Harvesting refuses it in a text.
    rowless = {
        number: token
        for token, number in vocabulary.items()
        if number >= config.vocab_size and number != chat.pad_token_id
    }
    return {
        "d_model": config.hidden_size,
        "layers": config.num_hidden_layers,
        "family": config.model_type,
        "few_bits": few_bits(read_config(base_folder(folder)), asked_bits(folder)),
        "between_turns": between_turns(own) if own is not None else None,
        "vocabulary": len(vocabulary),
        "rows": config.vocab_size,
        "rowless": rowless,
        "unknown": unknown,
        "moved": moved,
    }


def compared(
    vocabulary: Mapping[str, int], own: Mapping[str, int], name: str
) -> tuple[dict[int, str], dict[int, str]]:
    """Tokens (id -> token) of the chat tokenizer's ``vocabulary`` that a model's ``own`` lacks, and others.

    The first were added or renamed. The others have another id in ``own``. Raises UserError if these are more
    than MOST_MOVED, or if that many and a tenth of all were renamed: then the two belong to different
    tokenizers. ``name`` is the model's.
    """
    in_order = sorted(vocabulary.items(), key=lambda item: item[1])
    unknown = {number: token for token, number in in_order if token not in own}
    moved = {number: token for token, number in in_order if own.get(token, number) != number}
    others = {number: token for token, number in own.items()}
    renamed = {number: token for number, token in unknown.items() if number in others}
    if len(renamed) > max(MOST_MOVED, len(vocabulary) // MOST_RENAMED):
        number, token = next(iter(renamed.items()))
        raise UserError(
            f"pair: {len(renamed)} of {len(vocabulary)} tokens of the chat tokenizer are others in the "
            f"tokenizer of {name} (such as id {number}: {token!r} and {others[number]!r}); only pairs with "
            "one vocabulary are supported, apart from added, renamed and replaced tokens"
        )
    if len(moved) > MOST_MOVED:
        number, token = next(iter(moved.items()))
        raise UserError(
            f"pair: {len(moved)} of {len(vocabulary)} tokens of the chat tokenizer have another id in the "
            f"tokenizer of {name} (such as {token!r}, {number} and {own[token]}); only pairs with one "
            "vocabulary are supported, apart from added, renamed and replaced tokens"
        )
    return unknown, moved
