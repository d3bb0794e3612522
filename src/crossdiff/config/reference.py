"""The reference of all keys, made from the typed settings: docs/config.md and config.schema.json."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, NoDefault
from pydantic_core import core_schema

from crossdiff.config import LOSSES, Config, CrosscoderSettings, Section
from crossdiff.config.analysis import Analysis
from crossdiff.config.base import NAME, PATTERNS, SHA256, VERSION, WORD
from crossdiff.config.models import CHAT_ONLY_SOURCES

Schema = dict[str, Any]

DIALECT = "http://json-schema.org/draft-07/schema#"  # the newest one that editors know well
KINDS = {NAME: "name", SHA256: "hash", WORD: "word", VERSION: "version"}  # of text
IDS = "^[0-9]+$"
BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
# Refused, though the section of a model has these keys.
NOWHERE = {*(f"pair.base.{kind}" for kind in CHAT_ONLY_SOURCES), "models.NAME.planted"}
WIDTH = 120
PLACES = 3  # full keys that a heading names

INTRO = f"""# Every key of a config

A config is one YAML file: `config.yaml`, one of `configs/`, or your own
([your-own-pair.md](your-own-pair.md)). This page is made from `src/crossdiff/config/` by `make reference`.
Do not edit it.

An editor with a YAML language server completes and checks a config whose first line names the schema:

```yaml
# yaml-language-server: $schema=config.schema.json
```

The path goes from the config to that file: in `configs/` it is `../config.schema.json`. Some rules join
several keys. They stand in the text of a section, and only the program checks them: it refuses a config that
breaks one with one line, before any job starts.

- A *required* key has no default. With the default none a key, or a whole section, may be left out. A
  *section with defaults* may be left out too: its keys then have their defaults.
- A section may be left empty (`steering:`, in YAML the same as `steering: null`). Its keys then have their
  defaults. If one of its keys is required, the section is left out: `causal: null` in a second config
  switches it off.
- NAME is a name of your choice. *Text* is not empty, and numbers are finite. What other texts may hold:
  - *name*: {PATTERNS[NAME]}
  - *word*: {PATTERNS[WORD]}
  - *version*: {PATTERNS[VERSION]}
  - *hash*: {PATTERNS[SHA256]}
- Relative paths start in the folder in which Snakemake runs.
- Units: a *count* says how many, a *share* is a part of a whole, a *ratio* is one quantity over another. A
  *seed* starts a random generator. A *rate* is the optimiser's own and has no unit.
- "The paper" is Minder et al., [arXiv 2504.02922](https://arxiv.org/abs/2504.02922). A number after
  [method.md](method.md) is a paragraph there.
"""
EVERY_LOSS = "crosscoders.NAME"
COMMON = "A crosscoder and its training. Every loss has these keys, and each adds its own."


class _Generator(GenerateJsonSchema):
    """pydantic's generator, with lists for tuples, all defaults but those of sections, and no titles."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        factory: Any = schema.get("default_factory")
        default = factory() if factory else super().get_default_value(schema)
        return NoDefault if isinstance(default, Section) else default

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        found = super().tuple_schema(schema)
        [items, *others] = found.pop("prefixItems")
        if any(other != items for other in others):
            raise ValueError(f"the entries of a tuple must be of one type: {items}, {others}")
        return {**found, "items": items}

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        found = super().dict_schema(schema)
        if isinstance(values := found.get("additionalProperties"), dict):
            found["patternProperties"] = {IDS: values}  # the other keys of users are names
        return {**found, "additionalProperties": False}


def schema() -> Schema:
    """The JSON schema (draft 7) of a config: every key, type, bound, description with unit, and default.

    It knows no rule that joins several keys: those are the validators' alone.
    """
    return {"$schema": DIALECT, "title": "A config of Crossdiff"} | _with_units_told(_raw())


def _raw() -> Schema:
    """The schema with a keyword ``unit`` of its own."""
    return Config.model_json_schema(schema_generator=_Generator)


def _with_units_told(node: Any) -> Any:
    """Units go into descriptions, which are what an editor shows. What no editor uses is dropped."""
    if isinstance(node, list):
        return [_with_units_told(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    told = {key: _with_units_told(value) for key, value in node.items()}
    for keyword in ("title", "discriminator"):
        told.pop(keyword, None)
    if isinstance(text := told.get("description"), str):
        unit = told.pop("unit", None)
        told["description"] = _plain(text) + (f" Unit: {unit}." if unit else "")
    return told


def _plain(docstring: str) -> str:
    """A docstring as Markdown, a paragraph on one line."""
    return "\n\n".join(" ".join(part.split()) for part in docstring.replace("``", "`").split("\n\n"))


def markdown() -> str:
    """The text of docs/config.md: one list of keys per section, in the order of a config."""
    root = _raw()
    root["properties"] = _own_first(root["properties"], Analysis)  # what is compared, then what is measured
    sections = root["$defs"]
    places = _places(root, sections)
    entries = [_name(option) for option in _options(root["properties"]["crosscoders"])]
    losses = [name for name in entries if "loss" in sections[name]["properties"]]
    anchors = {name: _anchor(_heading(paths)) for name, paths in places.items()}
    anchors |= {loss: _anchor(EVERY_LOSS) for loss in losses}

    def block(heading: str, text: str, keys: Schema, required: list[str]) -> str:
        items = [_item(key, value, key in required, sections, anchors) for key, value in keys.items()]
        return f"{heading}\n\n{_prose(text)}\n\n" + "\n".join(items)

    blocks = [INTRO.strip(), block("## Top level", root["description"], root["properties"], root["required"])]
    for name in places:
        section = sections[name]
        if name not in losses:
            level = "##" if re.fullmatch(r"\w+(\.NAME)?", places[name][0]) else "###"
            heading = f"{level} {_heading(places[name])}"
            blocks.append(block(heading, section["description"], section["properties"], _required(section)))
        elif name == losses[0]:
            common, own = _parted({loss: sections[loss]["properties"] for loss in losses})
            blocks.append(block(f"## {EVERY_LOSS}", COMMON, common, _required(section)))
            for loss in losses:
                heading, text = f"### {', '.join(places[loss])}", sections[loss]["description"]
                if loss in (heads := _heads()):
                    text += f"\n\nIt has the keys of `{heads[loss][1]}`, too."
                blocks.append(block(heading, text, own[loss], _required(sections[loss])))
    return "\n\n".join(blocks) + "\n"


def _heading(places: list[str]) -> str:
    """The full keys at which a section stands; the first few of many."""
    return ", ".join([*places[:PLACES], *(["..."] if len(places) > PLACES else [])])


def _own_first(keys: Schema, parent: type[Section]) -> Schema:
    """``keys`` with those of the ``parent`` class last."""
    return dict(sorted(keys.items(), key=lambda item: item[0] in parent.model_fields))


def _parted(losses: Mapping[str, Schema]) -> tuple[Schema, dict[str, Schema]]:
    """The keys that are the same for all ``losses``, and the other keys of each loss.

    A loss is not given those that it has from the head of its family.
    """
    first, *others = losses.values()
    common = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    heads = {loss: losses[head] for loss, (head, _) in _heads().items()}
    own = {
        loss: {
            key: value
            for key, value in keys.items()
            if key not in common and heads.get(loss, {}).get(key) != value
        }
        for loss, keys in losses.items()
    }
    return common, {loss: _own_first(keys, CrosscoderSettings) for loss, keys in own.items()}


def _heads() -> dict[str, tuple[str, str]]:
    """Class of a loss -> class and name of the first loss of its family, for losses that are not that one.

    A family has a class of keys in common, apart from those that every loss has.
    """
    first: dict[type, tuple[str, str]] = {}
    found = {}
    for name, loss in LOSSES.items():
        family = loss.__mro__[1]
        if family is not CrosscoderSettings:
            head = first.setdefault(family, (loss.__name__, name))
            if head[1] != name:
                found[loss.__name__] = head
    return found


def _required(section: Schema) -> list[str]:
    return section.get("required", [])


def _places(section: Schema, sections: Schema, path: str = "") -> dict[str, list[str]]:
    """Name of each section below ``section`` -> the full keys at which it stands. In order of appearance."""
    places: dict[str, list[str]] = {}
    for key, value in section["properties"].items():
        full = f"{path}.{key}".lstrip(".")
        for option in _options(value):
            if full in NOWHERE or not (name := _name(option)):
                continue
            here = f"{full}.NAME" if "patternProperties" in value else full
            inner = _places(sections[name], sections, here)
            for found, paths in {name: [_variant(here, value, sections[name])], **inner}.items():
                known = places.setdefault(found, [])
                known += [place for place in paths if place not in known]
    return places


def _variant(place: str, value: Schema, section: Schema) -> str:
    """The full key of a section. Where there may be several kinds, with the key that tells this one."""
    keys = section["properties"]
    if loss := keys.get("loss", {}).get("const"):
        return f"{place}, loss: {loss}"
    several = sum(bool(_name(option)) for option in _options(value)) > 1
    return f"{place}, {next(iter(keys))}" if several else place


def _options(value: Schema) -> Iterator[Schema]:
    """The schemas that a value may have, those of named entries included, null not."""
    for kind in ("anyOf", "oneOf"):
        for inner in value.get(kind, []):
            yield from _options(inner)
    for inner in value.get("patternProperties", {}).values():
        yield from _options(inner)
    if not {"anyOf", "oneOf", "patternProperties"} & value.keys() and value.get("type") != "null":
        yield value


def _name(value: Schema) -> str:
    """The name of the section that a schema refers to; empty where it is a leaf."""
    return value.get("$ref", "").rpartition("/")[2]


def _item(key: str, value: Schema, required: bool, sections: Schema, anchors: Mapping[str, str]) -> str:
    """A key with its type and bounds, default and unit, and then what it does."""
    shown = f"`{key}`"
    if name := _name(next(_options(value))):
        shown = f"[{shown}](#{anchors[name]})"
        value = {"description": _first_sentence(sections[name]["description"])} | value
    facts = [_type(value) + (" with defaults" if name and not required and "default" not in value else "")]
    if required:
        facts.append("*required*")
    elif "default" in value:
        facts.append(f"default {_default(value['default'])}")
    if "unit" in value:
        facts.append(f"unit {value['unit']}")
    text = f"- **{shown}**: {', '.join(facts)}. {_linked(_plain(value['description']))}"
    return _wrapped(text, indent="  ")


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", text)[0]


def _type(value: Schema) -> str:
    """Type and bounds in words."""
    if "patternProperties" in value:
        [(pattern, inner)] = value["patternProperties"].items()
        key = "ID" if pattern == IDS else "NAME"
        return f"{key}: {_type(inner)}" + (", at least one" if "minProperties" in value else "")
    first, *more = _options(value)
    if _name(first):
        return "section"
    if more:  # an integer is a number
        *kinds, last = [kind for option in (first, *more) if (kind := _type(option)) != "integer"]
        return f"{', '.join(kinds)} or {last}"
    if choices := first.get("enum", [first["const"]] if "const" in first else []):
        *others, last = [f"`{choice}`" for choice in choices]
        return f"{', '.join(others)} or {last}" if others else last
    match first["type"]:
        case "array":
            kind, _, bounds = _type(first["items"]).partition(" ")
            number = "two" if "maxItems" in first else "list of"
            return f"{number} {kind}s {bounds}".strip() + (
                ", at least one" if number != "two" and "minItems" in first else ""
            )
        case "string":
            return KINDS.get(first.get("pattern", ""), "text")
        case "boolean":
            return "`true` or `false`"
        case kind:
            bounds = ", ".join(f"{sign} {first[bound]:g}" for bound, sign in BOUNDS.items() if bound in first)
            return f"{kind} {bounds}".strip()


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float) and len(repr(value)) > 8:
        return f"`{value:.4g}`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _anchor(heading: str) -> str:
    """The id that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _prose(docstring: str) -> str:
    return "\n\n".join(map(_wrapped, _linked(_plain(docstring)).split("\n\n")))


def _wrapped(text: str, indent: str = "") -> str:
    """``text`` in lines of at most ``WIDTH`` characters. ``indent`` stands before each but the first."""
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _linked(text: str) -> str:
    return re.sub(r"docs/([a-z-]+\.md)", r"[\1](\1)", text)
