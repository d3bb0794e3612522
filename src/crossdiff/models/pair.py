"""Check that two models make a pair, from the facts that ``models.check`` found of each. Torch-free."""

from typing import Any

from crossdiff.errors import UserError


def check_pair(base: dict[str, Any], chat: dict[str, Any]) -> dict[str, Any]:
    """Facts of a pair, from those of its models (``check_model``).

    Raises UserError if the models differ in d_model or in their number of layers.
    """
    for key in ("d_model", "layers"):
        if base[key] != chat[key]:
            found = f"{key} is {base[key]} in the base and {chat[key]} in the chat model"
            raise UserError(f"pair: {found}; they must be equal")
    kept = ("d_model", "layers", "family")
    facts = {name: {key: model[key] for key in kept} for name, model in (("base", base), ("chat", chat))}
    return facts | {
        "vocabulary": chat["vocabulary"],
        "unknown_to_base": base["unknown"],
        "replaced_for_base": base["replaced"],
    }
