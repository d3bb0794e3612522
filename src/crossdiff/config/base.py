"""What every section is built from."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# What texts have to look like, and how an error says it.
NAME, SHA256, WORD, VERSION = r"^[a-z0-9][a-z0-9_-]*$", r"^[0-9a-f]{64}$", r"^[A-Za-z0-9._-]+$", r"^[A-Za-z0-9._+!-]+$"
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


ByName = AfterValidator(_sorted)  # the order of entries in the YAML decides nothing: not the order of training data, not that of panels


class Section(BaseModel):
    """Base of every section: unknown keys are errors, and text is never read as a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


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
    return {key: tuple(value) if key in names and isinstance(value, list) else value for key, value in values.items()}
