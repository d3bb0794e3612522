"""Check a model before anything expensive is computed with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError
from crossdiff.models.files import has_tokenizer
from crossdiff.models.load import check_weights
from crossdiff.models.tokenizers import load_tokenizer, text_config

REPLACEMENTS = "tokens.base_replacements"


def check_model(
    folder: str | Path, tokenizer: str | Path, layer: int, replacements: Mapping[int, int] | None = None
) -> dict[str, Any]:
    """Facts of the model in ``folder``.

    They are d_model, layers, family; vocabulary, the number of the chat tokenizer's tokens; unknown (id ->
    token), those that the model's own tokenizer lacks, or None if it has no tokenizer; and ``replacements``
    (id -> id that the model reads in its place), as replaced.

    ``tokenizer`` is the folder of the chat tokenizer, ``layer`` a 0-based block. Raises UserError if the layer
    does not exist, if the folder lacks weights of its model, and for tokens that the model can't read
    (``unknown_tokens``).
    """
    config, name = text_config(folder), Path(folder).name
    if layer >= config.num_hidden_layers:
        raise UserError(
            f"pair.layer: found {layer}, the model {name} has layers 0 to {config.num_hidden_layers - 1}"
        )
    check_weights(folder)
    chat = load_tokenizer(tokenizer)
    vocabulary, replaced = chat.get_vocab(), dict(replacements or {})
    _check_replacements(replaced, max(vocabulary.values()), config.vocab_size)
    # Padding is masked, so it may lack a row of the embedding. Harvesting refuses it in a text.
    rowless = {
        token: number
        for token, number in vocabulary.items()
        if number >= config.vocab_size and number not in replaced and number != chat.pad_token_id
    }
    if rowless:
        token, number = min(rowless.items(), key=lambda item: item[1])
        raise UserError(
            f"pair: {len(rowless)} of {len(vocabulary)} tokens of the chat tokenizer (such as {token!r}, id "
            f"{number}) have no row in the embedding of {name}, which has {config.vocab_size}; "
            f"for the base model, set {REPLACEMENTS}, such as {{{number}: 0}}"
        )
    own = load_tokenizer(folder).get_vocab() if has_tokenizer(folder) else None
    unknown = unknown_tokens(vocabulary, own, replaced, name) if own is not None else None
    facts = {"d_model": config.hidden_size, "layers": config.num_hidden_layers, "family": config.model_type}
    return facts | {"vocabulary": len(vocabulary), "unknown": unknown, "replaced": replaced}


def _check_replacements(replaced: Mapping[int, int], last: int, rows: int) -> None:
    for number, instead in replaced.items():
        if number > last:
            raise UserError(f"{REPLACEMENTS}: found {number}, the chat tokenizer has ids 0 to {last}")
        if instead >= rows:
            raise UserError(f"{REPLACEMENTS}.{number}: found {instead}, allowed: 0 to {rows - 1}")


def unknown_tokens(
    vocabulary: Mapping[str, int], own: Mapping[str, int], replaced: Mapping[int, int], name: str
) -> dict[int, str]:
    """The tokens (id -> token) of the chat tokenizer's ``vocabulary`` that a model's ``own`` one lacks.

    They were added or renamed. Raises UserError for tokens that both have with different ids, unless they are
    in ``replaced``: then the two are vocabularies of different tokenizers. ``name`` is the model's.
    """
    moved = [
        token
        for token, number in vocabulary.items()
        if own.get(token, number) != number and number not in replaced
    ]
    if moved:
        here, there = vocabulary[moved[0]], own[moved[0]]
        raise UserError(
            f"pair: {len(moved)} of {len(vocabulary)} tokens of the chat tokenizer have another id in the "
            f"tokenizer of {name} (such as {moved[0]!r}, {here} and {there}); only pairs with one vocabulary are "
            f"supported, apart from added, renamed and replaced tokens ({REPLACEMENTS})"
        )
    return {
        number: token for token, number in sorted(vocabulary.items(), key=lambda i: i[1]) if token not in own
    }
