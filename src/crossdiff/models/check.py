"""Check a model before anything expensive is computed with it."""

from pathlib import Path
from typing import Any

from crossdiff.errors import UserError
from crossdiff.models.load import check_weights
from crossdiff.models.tokenizers import load_tokenizer, text_config


def check_model(folder: str | Path, tokenizer: str | Path, layer: int) -> dict[str, Any]:
    """Facts of the model in ``folder``: d_model, layers, family, and vocabulary, the number of tokens.

    ``tokenizer`` is the folder of the chat tokenizer, ``layer`` a 0-based block. Raises UserError if the
    layer does not exist, if the folder lacks weights of its model, or if a token of ``tokenizer`` has another
    id, or none, in the model's own tokenizer.
    """
    config, name = text_config(folder), Path(folder).name
    if layer >= config.num_hidden_layers:
        raise UserError(
            f"pair.layer: found {layer}, the model {name} has layers 0 to {config.num_hidden_layers - 1}"
        )
    check_weights(folder)
    vocabulary, known = load_tokenizer(tokenizer).get_vocab(), load_tokenizer(folder).get_vocab()
    different = [token for token, number in vocabulary.items() if known.get(token) != number]
    if different:
        many = f"{len(different)} of {len(vocabulary)} tokens of the chat tokenizer"
        raise UserError(
            f"pair: {many} have another id or none in the tokenizer of {name} (such as {different[0]!r}); "
            "only pairs with one vocabulary are supported"
        )
    facts = {"d_model": config.hidden_size, "layers": config.num_hidden_layers, "family": config.model_type}
    return facts | {"vocabulary": len(vocabulary)}
