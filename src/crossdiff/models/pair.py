"""Check that two models make a pair, from the facts that ``models.check`` found of each. Torch-free."""

from typing import Any

from crossdiff.errors import UserError


def check_pair(base: dict[str, Any], chat: dict[str, Any], least_width: int = 1) -> dict[str, Any]:
    """Facts of a pair, from those of its models (``check_model``).

    ``least_width`` is the d_model that the config's crosscoders need at least. Raises UserError if the models
    differ in d_model or in their number of layers, or are narrower.
    """
    for key in ("d_model", "layers"):
        if base[key] != chat[key]:
            found = f"{key} is {base[key]} in the base and {chat[key]} in the chat model"
            raise UserError(f"pair: {found}; they must be equal")
    if base["d_model"] < least_width:
        needed = f"d_model is {base['d_model']}, some k needs {least_width} or more (k / expansion)"
        raise UserError(f"crosscoders: {needed}; lower k and k_max, or raise expansion")
    kept = ("d_model", "layers", "family")
    facts = {name: {key: model[key] for key in kept} for name, model in (("base", base), ("chat", chat))}
    return facts | {"vocabulary": chat["vocabulary"]}
