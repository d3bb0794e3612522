"""Settings as a rule declares them: flat, by their full keys, for Snakemake; typed, and no more than those, for its script."""

from collections.abc import Set
from typing import Any, TypeVar

from crossdiff.config.base import Section, undeclared

T = TypeVar("T")


def flatten(key: str, value: Any) -> dict[str, Any]:
    """Full key -> value of everything below ``key``, from plain values (``model_dump``). An empty section is a value."""
    if isinstance(value, dict) and value:
        return {
            full: leaf
            for part, inner in value.items()
            for full, leaf in flatten(f"{key}.{part}" if key else part, inner).items()
        }
    return {key: value}


def only(section: T, declared: Set[str], rule: str, key: str = "") -> T:
    """A typed section with the ``declared`` full keys alone. To ask it for another is an error that names ``rule`` and the key.

    A section whose keys are all declared is given as it is.
    """
    if isinstance(section, Section):
        if flatten(key, section.model_dump(mode="json", by_alias=True)).keys() <= declared:
            return section
        fields = {
            name: f"{key}.{field.alias or name}".lstrip(".")
            for name, field in type(section).model_fields.items()
        }
        # A section of which nothing is declared is there, but empty: the error names the key that was asked for.
        values = {name: getattr(section, name) for name, full in fields.items()}
        wanted = {
            name
            for name, full in fields.items()
            if _any(full, declared) or isinstance(values[name], (Section, dict))
        }
        kept = {name: only(values[name], declared, rule, fields[name]) for name in fields if name in wanted}
        return section.with_only(kept, rule, key)
    if isinstance(section, dict) and key not in declared:
        return _DeclaredEntries(
            {name: only(value, declared, rule, f"{key}.{name}") for name, value in section.items()},
            rule,
            key,
            declared,
        )
    return section


def _any(key: str, declared: Set[str]) -> bool:
    return key in declared or any(name.startswith(f"{key}.") for name in declared)


class _DeclaredEntries(dict[str, Any]):
    """The declared entries of a section of named ones, such as ``datasets``."""

    def __init__(self, entries: dict[str, Any], rule: str, key: str, declared: Set[str]) -> None:
        super().__init__({name: value for name, value in entries.items() if _any(f"{key}.{name}", declared)})
        self.rule, self.key = rule, key

    def __missing__(self, name: str) -> Any:
        raise undeclared(self.rule, f"{self.key}.{name}")

    def get(self, name: str, default: Any = None) -> Any:
        """An entry; there is no default for one that is not declared."""
        return self[name]

    def __contains__(self, name: object) -> bool:
        return self[name] is not None
