"""docs/config.md and config.schema.json: in step with the settings, complete, as strict as the program."""

import copy
import json
import re
import runpy
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any, NamedTuple, get_args

import annotated_types
import pytest
import yaml
from conftest import ROOT, TINY
from helpers_config import SHIPPED
from jsonschema import Draft7Validator
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from crossdiff.config import Config, Section, load
from crossdiff.config.declared import flatten
from crossdiff.config.problems import _options

SCHEMA = json.loads((ROOT / "config.schema.json").read_text())
VALIDATOR = Draft7Validator(SCHEMA)
PAGE = (ROOT / "docs/config.md").read_text()
FILES = runpy.run_path(str(ROOT / "docs/make_reference.py"))["FILES"]

PLANTED = yaml.safe_load((ROOT / "configs/planted-tiny.yaml").read_text())
FULL = yaml.safe_load((ROOT / TINY).read_text()) | {
    "explanations": {
        "model": {"endpoint": {"url": "http://localhost:8000/v1", "model": "some", "key": "A_KEY"}},
        "prices": {"read": 0.5, "written": 1.5},
    }
}


def complete(values: dict[str, Any]) -> dict[str, Any]:
    """A config with all its defaults, as YAML gives it."""
    whole = load(values).model_dump(mode="json", by_alias=True)
    # Null stands for an empty section, so that a section that is not there is left out.
    return {key: value for key, value in whole.items() if value is not None}


def sections(section: type[Section] = Config) -> Iterator[type[Section]]:
    """Every class of settings that a config can hold."""
    yield section
    for field in section.model_fields.values():
        for part in classes(field.annotation):
            yield from sections(part)


def classes(annotation: Any) -> Iterator[type[Section]]:
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, Section):
            yield option
        else:
            for inner in get_args(option):
                yield from classes(inner)


LEAVES = {
    f"{section.__name__}.{field.alias or name}": field
    for section in sections()
    for name, field in section.model_fields.items()
    if not list(classes(field.annotation))
}


class Item(NamedTuple):
    """What the page says of a key."""

    type: str  # with bounds
    default: str  # "" where the key is required
    unit: str  # "" where the key has none
    text: str


ITEM = re.compile(
    r"- \*\*`(\w+)`\*\*: (.+?)(?:, \*required\*|, default (none|`[^`]+`))(?:, unit ([^.]+))?\. (.+)"
)


def items() -> list[tuple[str, Item]]:
    """(key, item) of every leaf on the page."""
    joined = re.sub(r"\n  (?=\S)", " ", PAGE.partition("\n## ")[2])
    found = []
    for line in joined.splitlines():
        if line.startswith("- **`"):
            match = ITEM.fullmatch(line)
            assert match, f"docs/config.md: not a key with its facts: {line}"
            found.append((match[1], Item(match[2], match[3] or "", match[4] or "", match[5])))
    return found


def alike(key: str, field: FieldInfo) -> list[Item]:
    """The items of one field and of others with its name and description."""
    text = re.sub(r"docs/([a-z-]+\.md)", r"[\1](\1)", field.description or "")
    found = [item for name, item in items() if name == key and item.text == text]
    assert found, f"docs/config.md has no item for {key} that says {text!r}"
    return found


def item(key: str, field: FieldInfo) -> Item:
    return alike(key, field)[0]


@pytest.mark.parametrize("path", FILES)
def test_page_is_what_the_code_gives(path: str) -> None:
    assert (ROOT / path).read_text() == FILES[path](), f"{path} is out of date; run make reference"


def test_every_leaf_has_a_description_and_an_item() -> None:
    assert len(LEAVES) > 120
    bare = [key for key, field in LEAVES.items() if not (field.description or "").endswith(".")]
    assert not bare, f"without a description, about(...): {', '.join(bare)}"
    for key, field in LEAVES.items():
        item(key.partition(".")[2], field)


def test_item_names_all_types_of_a_key() -> None:
    assert "- **`template_arguments`**: NAME: `true` or `false`, number or text, " in PAGE


def test_every_section_has_a_text() -> None:
    assert not [section.__name__ for section in sections() if "__doc__" not in vars(section)]


def numeric(annotation: Any) -> bool:
    options = list(_options(annotation))
    return any(option in (int, float) for option in options) or any(
        numeric(inner) for option in options if option not in (bool, str) for inner in get_args(option)
    )


def test_every_number_has_a_unit() -> None:
    for key, field in LEAVES.items():
        unit = item(key.partition(".")[2], field).unit
        assert bool(unit) == numeric(field.annotation), f"{key}: {unit or 'no unit'}"


def bounds(annotated: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(sign, number) of every bound that pydantic knows of a type, those of entries included."""
    signs = {
        annotated_types.Gt: ">",
        annotated_types.Ge: "≥",
        annotated_types.Lt: "<",
        annotated_types.Le: "≤",
    }
    for item in (*metadata, *getattr(annotated, "__metadata__", ())):
        for part in item.metadata if isinstance(item, FieldInfo) else [item]:
            if type(part) in signs:
                yield signs[type(part)], astuple(part)[0]
    for inner in get_args(annotated):
        if not isinstance(inner, (str, FieldInfo)):
            yield from bounds(inner)


def test_every_bound_appears() -> None:
    seen = 0
    for key, field in LEAVES.items():
        for sign, number in bounds(field.annotation, tuple(field.metadata)):
            shown = item(key.partition(".")[2], field).type
            assert re.search(rf"{sign} {number:g}(,|$)", shown), f"{key} {sign} {number}"
            seen += 1
    assert seen > 80


def default(field: FieldInfo) -> str:
    """The default as the page shows it."""
    match field.get_default(call_default_factory=True):
        case None:
            return "none"
        case list() | tuple() | bool() as value:
            return f"`{json.dumps(value)}`"
        case float() as value if len(str(value)) > 8:
            return f"`{value:.4g}`"
        case value:
            return f"`{value}`"


def test_every_default_appears() -> None:
    for key, field in LEAVES.items():
        expected = "" if field.is_required() else default(field)
        assert expected in [item.default for item in alike(key.partition(".")[2], field)], key


def test_lines_are_narrow_and_go_on_as_text() -> None:
    for line in PAGE.splitlines():
        assert len(line) <= 120, line
    [*_, keys] = PAGE.partition("\n## ")
    assert not re.findall(r"^ +(?:[-+*>#]|\d+[.)]) .*", keys, re.MULTILINE)  # this would be a list or a quote


def test_links_lead_to_headings() -> None:
    ids = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("#")
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert links and links <= ids


# The schema.


def test_schema_is_one() -> None:
    Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_config_fits_and_names_the_schema(path) -> None:
    text = path.read_text()
    values = json.loads(
        json.dumps(yaml.safe_load(text))
    )  # keys that are numbers become texts, as for editors
    assert list(VALIDATOR.iter_errors(values)) == []
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", text.splitlines()[0])
    assert named and (path.parent / named[1]).resolve() == ROOT / "config.schema.json"


def test_complete_config_fits() -> None:
    for values in (FULL, PLANTED):
        assert list(VALIDATOR.iter_errors(complete(values))) == []


OTHER = [-1, 0, 1, 0.5, 1.5, "Some text", "", True, [], [0.1, 7.5], {}, {"some": 1}, None]


@pytest.mark.parametrize("values", [FULL, PLANTED], ids=["full", "planted"])
def test_schema_is_as_strict_as_the_program(values: dict[str, Any]) -> None:
    """Many values in each leaf. Only what our own validators refuse may be beyond the schema."""
    whole = complete(values)
    wrong, refused = [], 0
    for key in flatten("", whole):
        for value in OTHER:
            broken = changed(whole, key, value)
            fits, problems = VALIDATOR.is_valid(broken), kinds_of_problem(broken)
            refused += not fits
            if not fits and not problems:
                wrong.append(f"{key}: {value!r}: refused by the schema alone")
            if fits and problems - {"value_error"}:
                wrong.append(f"{key}: {value!r}: refused by the program alone")
    assert not wrong, "\n".join(wrong)
    assert refused > 500


def kinds_of_problem(values: dict[str, Any]) -> set[str]:
    """pydantic's names of what is wrong; "value_error" comes from a validator of ours."""
    try:
        Config.model_validate(values)
    except ValidationError as error:
        return {problem["type"] for problem in error.errors()}
    return set()


def changed(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(values)
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    section[last] = value
    return values


def alone_wrong(values: dict[str, Any]) -> bool:
    """Whether the program refuses a value by itself, not by a rule that joins several."""
    try:
        Config.model_validate(values)
    except ValidationError as error:
        return any(problem["type"] != "value_error" for problem in error.errors())
    return False


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pair.layr", 3),
        ("pair.layer", "1"),
        ("pair.layer", -1),
        ("pair.name", "My Pair"),
        ("crosscoders.batchtopk.kk", 3),
        ("crosscoders.l1.k", 3),
        ("crosscoders.l1.loss", "topk"),
        ("crosscoders.l1.learning_rate", "1e-3"),
        ("crosscoders.L 1", {"loss": "l1"}),
        ("classes.shared_between", [0.1, 0.2, 0.3]),
        ("datasets", {}),
        ("seeds", []),
        ("explanations.model.endpoint.key", "sk-secret"),
        ("explanations.model.endpoint.url", "http://me:secret@localhost"),
    ],
)
def test_schema_refuses(key: str, value: Any) -> None:
    whole = complete(FULL)
    assert VALIDATOR.is_valid(whole)
    assert not VALIDATOR.is_valid(changed(whole, key, value))


@pytest.mark.parametrize(
    "key", ["pair.name", "crosscoders.l1.l1_coefficient", "datasets.readme.tokens", "behaviour.requests"]
)
def test_schema_refuses_a_config_without_a_required_key(key: str) -> None:
    whole = complete(FULL)
    *parents, last = key.split(".")
    section = whole
    for parent in parents:
        section = section[parent]
    del section[last]
    assert not VALIDATOR.is_valid(whole)


def test_schema_has_units_and_defaults() -> None:
    definitions = SCHEMA["$defs"]
    assert SCHEMA["properties"]["seeds"]["default"] == [0]
    assert definitions["Examples"]["properties"]["quantiles"]["default"] == [0.25, 0.5, 0.75, 0.95, 1.0]
    assert definitions["BatchTopKSettings"]["properties"]["auxiliary_coefficient"]["default"] == 1 / 32
    assert "default" not in definitions["GivenPair"]["properties"]["name"]
    assert definitions["Tokens"]["properties"]["context"]["description"].endswith(" Unit: tokens.")
