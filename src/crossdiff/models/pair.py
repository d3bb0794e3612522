"""Check that two models make a pair, from the facts that ``models.check`` found of each. Torch-free."""

from collections.abc import Mapping
from typing import Any

from crossdiff.errors import UserError

REPLACEMENTS = "tokens.base_replacements"


def check_pair(
    base: dict[str, Any],
    chat: dict[str, Any],
    replacements: Mapping[int, int] | None = None,
    least_width: int = 1,
) -> dict[str, Any]:
    """Facts of a pair, from those of its models (``check_model``, as JSON: ids are texts).

    ``replacements`` are ids, each with the one that the base reads in its place. ``least_width`` is the
    d_model that the config's crosscoders need at least. Raises UserError if the models differ in d_model or
    in their number of layers, or are narrower, and for a token that one of them can't read: it has another id
    in its tokenizer, or no row of its embedding. For the base, a replacement makes up for that.
    """
    for key in ("d_model", "layers"):
        if base[key] != chat[key]:
            found = f"{key} is {base[key]} in the base and {chat[key]} in the chat model"
            raise UserError(f"pair: {found}; they must be equal")
    if base["d_model"] < least_width:
        needed = f"d_model is {base['d_model']}, some k or share of latents needs {least_width} or more"
        raise UserError(f"crosscoders: {needed}; lower k and k_max, or raise expansion")
    replaced = {str(number): instead for number, instead in (replacements or {}).items()}
    for number, instead in replaced.items():
        if instead >= base["rows"]:
            raise UserError(f"{REPLACEMENTS}.{number}: found {instead}, allowed: 0 to {base['rows'] - 1}")
    _check_tokens(base, "base", replaced)
    _check_tokens(chat, "chat", {})
    kept, both = ("d_model", "layers", "family", "few_bits", "between_turns"), {"base": base, "chat": chat}
    facts = {name: {key: model[key] for key in kept} for name, model in both.items()}
    return facts | {
        "vocabulary": chat["vocabulary"],
        "unknown_to_base": base["unknown"],
        "replaced_for_base": replaced,
    }


def _check_tokens(model: dict[str, Any], role: str, replaced: Mapping[str, int]) -> None:
    todo = (
        f"set {REPLACEMENTS}, such as {{NUMBER: 0}}" if role == "base" else "resize it, or mend the tokenizer"
    )
    for key, problem in (
        ("moved", "have another id in its own tokenizer"),
        ("rowless", f"have no row in its embedding, which has {model['rows']}"),
    ):
        wrong = {number: token for number, token in (model[key] or {}).items() if number not in replaced}
        if wrong:
            number, token = next(iter(wrong.items()))
            raise UserError(
                f"pair.{role}: {len(wrong)} of {model['vocabulary']} tokens of the chat tokenizer (such as "
                f"{token!r}, id {number}) {problem}; {todo.replace('NUMBER', number)}"
            )
