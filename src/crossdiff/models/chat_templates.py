"""Write arguments and the date into a chat template."""

import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from crossdiff.errors import UserError

_ANY_FORMAT = re.compile(r"""(['"])((?:(?!\1)[^\n])*%-?[a-zA-Z](?:(?!\1)[^\n])*)\1""")

T = TypeVar("T", str, dict[str, str])


def read_template(path: str | Path) -> str:
    """The chat template in a file, without a byte order mark.

    Raises UserError for a file that can't be read, that is no UTF-8, or that holds no template.
    """
    try:
        template = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path}: can't be read ({reason})") from error
    if not template.strip():
        raise UserError(f"{path}: found an empty file, allowed: a chat template in Jinja")
    return template


def with_arguments(template: T, arguments: Mapping[str, Any], day: date) -> T:
    """A chat template that has its ``arguments``, and for which it is always ``day``, 00:00:00.

    Whoever renders with the template gets the same text then. A template that asks for neither stays as it
    is. Of a tokenizer with several templates, each is treated so. Raises UserError for an argument that the
    template does not use, and for a template that Jinja can't read."""
    if isinstance(template, dict):
        return {name: with_arguments(one, arguments, day) for name, one in template.items()}
    try:
        Environment(extensions=["jinja2.ext.loopcontrols", _Generation]).compile(template)
    except TemplateSyntaxError as error:
        raise UserError(f"chat template: line {error.lineno}: {error.message}") from error
    for name in arguments:
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise UserError(
                f"tokens.template_arguments.{name}: the chat template does not use it; leave it out, or look "
                "for the right name in the template"
            )
    lines = [f"{{%- set {name} = {_literal(value)} +%}}" for name, value in sorted(arguments.items())]
    if "strftime_now" in template:
        lines.insert(0, _frozen_clock(template, day))
    return "".join(lines) + template


def _frozen_clock(template: str, day: date) -> str:
    """A macro in place of the function ``strftime_now``. It knows the formats that stand in the template."""
    cases = "".join(
        f"{{%- elif format == {_literal(form)} -%}}{{{{- {_literal(day.strftime(form))} -}}}}"
        for form in sorted({found[1] for found in _ANY_FORMAT.findall(template)})
    )
    unknown = "raise_exception('strftime_now: no format that stands in the template')"
    other = "{%- else -%}{{- " + unknown + " -}}{%- endif -%}"
    return "{%- macro strftime_now(format) -%}{%- if false -%}" + cases + other + "{%- endmacro +%}"


def _literal(value: Any) -> str:
    """Text, a number, true or false as Jinja writes it."""
    return json.dumps(value, ensure_ascii=False)


class _Generation(Extension):
    """The tag with which some templates mark what the assistant says. It changes no text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)
