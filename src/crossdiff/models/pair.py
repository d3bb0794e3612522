"""What two models must have in common to make a pair. Torch-free: it compares what was found of each (``models.check``)."""

from typing import Any

from crossdiff.errors import UserError


def check_pair(base: dict[str, Any], chat: dict[str, Any]) -> dict[str, Any]:
    """Facts of a pair from those of its models (``check_model``). Raises UserError when widths or depths differ."""
    for key in ("d_model", "layers"):
        if base[key] != chat[key]:
            raise UserError(
                f"pair: {key} is {base[key]} in the base and {chat[key]} in the chat model; they must be equal"
            )
    kept = ("d_model", "layers", "family")
    facts = {name: {key: model[key] for key in kept} for name, model in (("base", base), ("chat", chat))}
    return facts | {"vocabulary": chat["vocabulary"]}
