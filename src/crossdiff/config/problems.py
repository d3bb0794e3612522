"""Problems of a configuration in one line each: key, what was found, what is allowed."""

import difflib
import re
from collections.abc import Iterator, Mapping
from datetime import date
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from crossdiff.config.base import PATTERNS, Section
from crossdiff.config.given import A_NAME, A_SOURCE
from crossdiff.config.imported import IMPORT, ImportedCrosscoder
from crossdiff.config.losses import LOSSES, TRAINED


def describe(problem: Mapping[str, Any], root: type[Section]) -> str:
    """One of pydantic's errors about the section ``root``."""
    location = [part for part in problem["loc"] if part not in (A_SOURCE, A_NAME)]
    path = [str(part) for part in location]
    # pydantic puts the tags of unions into the path: crosscoders.NAME.loss.l1.k
    if len(path) > 2 and path[0] == "crosscoders" and path[2] in (TRAINED, IMPORT):
        tags = 2 if path[2] == TRAINED and path[3:4] and path[3] in LOSSES else 1
        del path[2 : 2 + tags]
    # "[key]" is pydantic's sign for a name that is itself wrong.
    key = ".".join(part for part in path if part != "[key]") or "top level"
    found, context = problem["input"], problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; {_allowed_keys(root, location)}"
        case "missing":
            return f"{key}: missing"
        case "value_error":
            return f"{key}: {context['error']}" if path else str(context["error"])
        case "string_type" if path[-1] == "[key]":
            return f"{'.'.join(path[:-2])}: found the name {_unquoted(found)}"
        case "invalid_key":
            return f"{'.'.join(path[:-1]) or 'top level'}: found the key {_unquoted(found)}"
        case "union_tag_invalid" | "union_tag_not_found":
            loss = found.get("loss") if isinstance(found, Mapping) else found
            given = "missing" if loss is None else f"found {loss!r}"
            instead = "; or give import" if loss is None else ""
            return f"{key}.loss: {given}, allowed: {', '.join(sorted(LOSSES))}{instead}"
        case "string_pattern_mismatch":
            message = PATTERNS.get(context["pattern"], problem["msg"])
        case "string_type":
            plain = isinstance(found, (bool, int, float, date))
            message = "text" + (f" (write it in quotes: {_in_quotes(found)})" if plain else "")
        case "model_type" | "dict_type" | "model_attributes_type":
            message = "a section"
        case "too_short":
            message = f"at least {context['min_length']}"
        case "string_too_short":
            message = "text that is not empty"
        case _:
            message = problem["msg"].removeprefix("Input should be ")
    hint = _number_hint(found, problem["type"])
    return f"{key}: found {found!r} ({_yaml_type(found)}), allowed: {message}{hint}"


def _unquoted(found: Any) -> str:
    """A name that YAML reads as something else than text, and what to write in its place."""
    return f"{found!r}, which YAML reads as {_yaml_type(found)}; write it in quotes: {_in_quotes(found)}"


def _in_quotes(found: Any) -> str:
    """What a user may have meant by an unquoted word, in quotes."""
    return {False: '"no" or "off"', True: '"yes" or "on"'}[found] if isinstance(found, bool) else f'"{found}"'


def _number_hint(found: Any, problem: str) -> str:
    """What to write in place of a number that has become text, else nothing.

    A number becomes text in quotes, nested in --config, or as 1e-3, which YAML 1.1 reads as text.
    """
    if (
        isinstance(found, str)
        and problem.startswith(("int", "float"))
        and re.fullmatch(r"[+-]?\d+(\.\d*)?", found)
    ):
        return " (without quotes; what is nested in --config is text, so write it in a file for --configfile)"
    if not (isinstance(found, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", found)):
        return ""
    value = float(found)
    if problem.startswith("int"):
        return f" (YAML reads {found} as text; write {int(value)})" if value.is_integer() else ""
    mantissa, exponent = re.split("[eE]", found)
    mantissa += "" if "." in mantissa else ".0"
    return f" (YAML reads {found} as text; write {mantissa}e{int(exponent):+d})"


def _yaml_type(value: Any) -> str:
    names = {
        str: "text",
        bool: "true/false",
        int: "integer",
        float: "number",
        list: "list",
        dict: "section",
        type(None): "nothing",
    }
    return names.get(type(value), type(value).__name__)


def _allowed_keys(root: type[Section], location: list[Any]) -> str:
    """The keys allowed where an unknown key was found, the closest first."""
    annotation: Any = root
    for part in location[:-1]:
        annotation = _below(annotation, part)
    [section] = [option for option in _options(annotation) if issubclass(option, Section)]
    keys = list(_fields(section))
    close = difflib.get_close_matches(str(location[-1]), keys, n=1)
    return (f"did you mean {close[0]}? " if close else "") + f"allowed: {', '.join(keys)}"


def _below(annotation: Any, part: Any) -> Any:
    """The type one key further down a path: of a field, of values of a dictionary or list, or of a loss."""
    options = list(_options(annotation))
    for option in options:
        if get_origin(option) in (dict, list):
            return get_args(option)[-1]
        if len(options) > 1 and option is {**LOSSES, IMPORT: ImportedCrosscoder}.get(part):
            return option
    if len(options) > 1 and part == TRAINED:  # the tag of all losses; that of one follows
        return annotation
    return next(
        _fields(option)[part] for option in options if issubclass(option, Section) and part in _fields(option)
    )


def _options(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, without None."""
    if get_origin(annotation) is Annotated:
        yield from _options(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for inner in get_args(annotation):
            yield from _options(inner)
    elif annotation is not type(None):
        yield annotation


def _fields(section: type[Section]) -> dict[str, Any]:
    return {(field.alias or name): field.annotation for name, field in section.model_fields.items()}
