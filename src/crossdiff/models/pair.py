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


def check_pair(base: str | Path, chat: str | Path, tokenizer: str | Path, layer: int) -> dict[str, Any]:
    """Facts of the pair.

    Raises UserError when widths, depths or token ids differ, the layer does not exist, or a folder lacks weights of its model.
    """
    facts = {}
    for name, folder in (("base", base), ("chat", chat)):
        config = text_config(folder)
        facts[name] = {"d_model": config.hidden_size, "layers": config.num_hidden_layers, "family": config.model_type}
        if layer >= config.num_hidden_layers:
            raise UserError(f"pair.layer: found {layer}, the {name} model has layers 0 to {config.num_hidden_layers - 1}")
    for key in ("d_model", "layers"):
        if facts["base"][key] != facts["chat"][key]:
            raise UserError(
                f"pair: {key} is {facts['base'][key]} in the base and {facts['chat'][key]} in the chat model; they must be equal"
            )
    for folder in dict.fromkeys((base, chat)):  # the same one where the chat model is made from the base
        check_weights(folder)
    vocabulary, known = load_tokenizer(tokenizer).get_vocab(), load_tokenizer(base).get_vocab()
    different = [token for token, number in vocabulary.items() if known.get(token) != number]
    if different:
        raise UserError(
            f"pair: {len(different)} of {len(vocabulary)} tokens of the chat tokenizer have another id or none in the base "
            f"tokenizer (such as {different[0]!r}); only pairs with one vocabulary are supported"
        )
    return facts | {"vocabulary": len(vocabulary)}
