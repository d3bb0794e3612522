"""What two models must have in common: the check that they make a pair, and the tokenizer that renders chats for both."""

from pathlib import Path
from typing import Any

from crossdiff.errors import UserError
from crossdiff.models.load import check_weights, load_tokenizer, text_config


def write_chat_tokenizer(origin: str | Path, template: str | Path | None, folder: Path) -> None:
    """The tokenizer that renders chats: that of ``origin``, with the fine-tune's own ``template`` if there is one."""
    tokenizer = load_tokenizer(origin)
    if template is not None:
        tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise UserError(f"{origin}: the chat model's tokenizer has no chat template")
    tokenizer.save_pretrained(folder)


def check_model(folder: str | Path, tokenizer: str | Path, layer: int) -> dict[str, Any]:
    """Facts of a model: d_model, layers, family, and vocabulary, the number of the tokenizer's tokens.

    Raises UserError when the layer does not exist, the folder lacks weights of its model, or a token of ``tokenizer`` has another id in
    the model's own.
    """
    config, name = text_config(folder), Path(folder).name
    if layer >= config.num_hidden_layers:
        raise UserError(f"pair.layer: found {layer}, the model {name} has layers 0 to {config.num_hidden_layers - 1}")
    check_weights(folder)
    vocabulary, known = load_tokenizer(tokenizer).get_vocab(), load_tokenizer(folder).get_vocab()
    different = [token for token, number in vocabulary.items() if known.get(token) != number]
    if different:
        raise UserError(
            f"pair: {len(different)} of {len(vocabulary)} tokens of the chat tokenizer have another id or none in the tokenizer of {name} "
            f"(such as {different[0]!r}); only pairs with one vocabulary are supported"
        )
    facts = {"d_model": config.hidden_size, "layers": config.num_hidden_layers, "family": config.model_type}
    return facts | {"vocabulary": len(vocabulary)}


def check_pair(base: dict[str, Any], chat: dict[str, Any]) -> dict[str, Any]:
    """Facts of a pair from those of its models (``check_model``). Raises UserError when widths or depths differ."""
    for key in ("d_model", "layers"):
        if base[key] != chat[key]:
            raise UserError(f"pair: {key} is {base[key]} in the base and {chat[key]} in the chat model; they must be equal")
    kept = ("d_model", "layers", "family")
    facts = {name: {key: model[key] for key in kept} for name, model in (("base", base), ("chat", chat))}
    return facts | {"vocabulary": chat["vocabulary"]}
