"""What every section is built from."""

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from crossdiff.errors import UserError

# What texts have to look like, and how an error says it.
NAME = r"^[a-z0-9][a-z0-9_-]*$"
SHA256 = r"^[0-9a-f]{64}$"
WORD = r"^[A-Za-z0-9._-]+$"
VERSION = r"^[A-Za-z0-9._+!-]+$"
SUBFOLDER = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"
ARGUMENT = r"^[A-Za-z][A-Za-z0-9_]*$"
PATTERNS = {
    NAME: "lower-case letters, digits, '-' and '_', a letter or digit first",
    ARGUMENT: "letters, digits and '_', a letter first",
    SHA256: "64 digits from 0 to 9 and a to f",
    WORD: "letters, digits, '.', '_' and '-'",
    VERSION: "letters, digits, '.', '_', '+', '!' and '-'",
    SUBFOLDER: "words of letters, digits, '.', '_' and '-', with '/' between them",
}


def _text_in_tables(name: str) -> str:
    """The same. Raises ValueError for a name that readers of CSV files take for a missing value."""
    if name in ("nan", "null"):
        raise ValueError(f"found {name}, which tables read as nothing; allowed: any other name")
    return name


Name = Annotated[str, Field(pattern=NAME), AfterValidator(_text_in_tables)]
Sha256 = Annotated[str, Field(pattern=SHA256)]
Text = Annotated[str, Field(min_length=1)]
LocalPath = Annotated[Text, AfterValidator(os.path.expanduser)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Cosine = Annotated[float, Field(gt=-1, lt=1)]


def about(what: str, unit: str | None = None) -> Any:
    """What a key does and the ``unit`` of its number, for docs/config.md and editors (config/reference.py).

    A number without a unit is a "count" (how many), a "share" (of a whole), a "ratio" or a "seed".
    """
    return Field(description=what, json_schema_extra=None if unit is None else {"unit": unit})


def _sorted(entries: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(entries.items()))


# The order of entries in the YAML decides nothing: not the order of training data, not that of panels.
ByName = AfterValidator(_sorted)


class Section(BaseModel):
    """Base of every section. Unknown keys are errors, text is never read as a number, numbers are finite.

    A section that is left empty in the YAML (``steering:``, which is null) stands for one without keys
    (``steering: {}``). If it needs a key, it is not given: so a second config switches it off
    (``causal: null``).
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, populate_by_name=True, allow_inf_nan=False
    )
    # The rule and the section's key, where a section has only some of its fields.
    _declared_by: tuple[str, str] | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        sections = {
            field.alias or name
            for name, field in cls.model_fields.items()
            if not field.is_required() and _may_be_empty(field.annotation)
        }
        return {key: {} if value is None and key in sections else value for key, value in values.items()}

    def with_only(self, fields: dict[str, Any], rule: str, key: str) -> Self:
        """A section of this kind with only ``fields``, which ``rule`` declares below ``key``."""
        part = self.model_copy()
        part.__dict__.clear()
        part.__dict__.update(fields)
        part._declared_by = (rule, key)
        return part

    if not TYPE_CHECKING:  # a type checker would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Python calls this for a missing attribute. Raises UserError for an undeclared field."""
            field = type(self).model_fields.get(name)
            if field is None or self._declared_by is None:
                return super().__getattr__(name)
            rule, key = self._declared_by
            raise undeclared(rule, f"{key}.{field.alias or name}".lstrip("."))


def _may_be_empty(annotation: Any) -> bool:
    """Whether a field holds a section, or a section or nothing, and the section needs no key."""
    options = get_args(annotation) or (annotation,)
    return any(
        isinstance(option, type) and issubclass(option, Section) and _is_whole(option) for option in options
    )


@functools.cache
def _is_whole(section: type[Section]) -> bool:
    """Whether a section is valid without any key."""
    try:
        section()
    except ValidationError:
        return False
    return True


def undeclared(rule: str, key: str) -> UserError:
    """The error for a script that asks for what its rule does not declare."""
    return UserError(
        f"rule {rule}: its script asks for {key}, which the rule does not declare; "
        f'add settings("{key}") to its params'
    )


def exactly_one(section: Section, names: tuple[str, ...]) -> str:
    """The one key of ``names`` that has a value. Raises ValueError when none or several have one."""
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        raise ValueError(f"found {' and '.join(given) or 'none'}, give exactly one of {', '.join(names)}")
    return given[0]


def with_ranges(values: Any, *names: str) -> Any:
    """The values of a section, with tuples for the fields ``names``: YAML writes a pair of numbers as a list.

    Raises ValueError for anything but two entries in a list.
    """
    if not isinstance(values, Mapping):
        return values
    for name in names:
        if name in values and not (isinstance(values[name], (list, tuple)) and len(values[name]) == 2):
            raise ValueError(f"{name}: found {values[name]!r}, allowed: two numbers in brackets")
    return {
        key: tuple(value) if key in names and isinstance(value, list) else value
        for key, value in values.items()
    }
