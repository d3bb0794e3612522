"""What every section is built from."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr

from crossdiff.errors import UserError

# What texts have to look like, and how an error says it.
NAME, SHA256, WORD, VERSION = (
    r"^[a-z0-9][a-z0-9_-]*$",
    r"^[0-9a-f]{64}$",
    r"^[A-Za-z0-9._-]+$",
    r"^[A-Za-z0-9._+!-]+$",
)
PATTERNS = {
    NAME: "lower-case letters, digits, '-' and '_', a letter or digit first",
    SHA256: "64 digits from 0 to 9 and a to f",
    WORD: "letters, digits, '.', '_' and '-'",
    VERSION: "a version, of letters, digits and '.'",
}
Name = Annotated[str, Field(pattern=NAME, description="part of file names")]
Sha256 = Annotated[str, Field(pattern=SHA256)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _sorted(entries: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(entries.items()))


ByName = AfterValidator(
    _sorted
)  # the order of entries in the YAML decides nothing: not the order of training data, not that of panels


class Section(BaseModel):
    """Base of every section: unknown keys are errors, and text is never read as a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)
    _declared_by: tuple[str, str] | None = PrivateAttr(
        None
    )  # of a section with some of its fields: the rule, and the section's key

    def with_only(self, fields: dict[str, Any], rule: str, key: str) -> Self:
        """A section of this kind with these fields and no others, as ``rule`` declares them below ``key`` (config/declared.py)."""
        part = self.model_copy()
        part.__dict__.clear()
        part.__dict__.update(fields)
        part._declared_by = (rule, key)
        return part

    def __getattr__(self, name: str) -> Any:
        """Called for what a section does not have. Raises UserError for a field that the rule did not declare."""
        field = type(self).model_fields.get(name)
        if field is None or self._declared_by is None:
            return super().__getattr__(name)
        rule, key = self._declared_by
        raise undeclared(rule, f"{key}.{field.alias or name}".lstrip("."))


def undeclared(rule: str, key: str) -> UserError:
    """The error for a script that asks for what its rule does not declare."""
    return UserError(
        f'rule {rule}: its script asks for {key}, which the rule does not declare; add settings("{key}") to its params'
    )


def exactly_one(section: Section, names: tuple[str, ...]) -> str:
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        raise ValueError(f"found {' and '.join(given) or 'none'}, give exactly one of {', '.join(names)}")
    return given[0]


def with_ranges(values: Any, *names: str) -> Any:
    """YAML has lists where these fields are pairs."""
    if not isinstance(values, Mapping):
        return values
    for name in names:
        if name in values and not (isinstance(values[name], (list, tuple)) and len(values[name]) == 2):
            raise ValueError(f"{name}: found {values[name]!r}, allowed: two numbers in brackets")
    return {
        key: tuple(value) if key in names and isinstance(value, list) else value
        for key, value in values.items()
    }
