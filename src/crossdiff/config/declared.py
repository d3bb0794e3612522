"""Settings that a rule declares.

Snakemake gets them flat, by full key. The rule's script gets them typed, and gets no others.
"""

from collections.abc import Set
from typing import Any, NoReturn, TypeVar

from crossdiff.config.base import Section, undeclared

S = TypeVar("S", bound=Section)


def flatten(key: str, value: Any) -> dict[str, Any]:
    """Full key -> value of everything below ``key``, from plain values (``model_dump``).

    An empty section is a value.
    """
    if isinstance(value, dict) and value:
        return {
            full: leaf
            for part, inner in value.items()
            for full, leaf in flatten(f"{key}.{part}" if key else part, inner).items()
        }
    return {key: value}


def only(section: S, declared: Set[str], rule: str, key: str = "") -> S:
    """A typed section with the ``declared`` full keys alone; one whose keys are all declared stays as it is.

    To ask it for another key raises a UserError that names ``rule`` and the key.
    """
    if flatten(key, section.model_dump(mode="json", by_alias=True)).keys() <= declared:
        return section
    kept = {}
    for name, field in type(section).model_fields.items():
        value, full = getattr(section, name), f"{key}.{field.alias or name}".lstrip(".")
        # A section without declared keys is there but empty: the error names the key that was asked for.
        if _any(full, declared) or isinstance(value, Section) or (isinstance(value, dict) and value):
            kept[name] = _part(value, declared, rule, full)
    return section.with_only(kept, rule, key)


def _part(value: Any, declared: Set[str], rule: str, key: str) -> Any:
    """What a script gets of the ``value`` below ``key``."""
    if isinstance(value, Section):
        return only(value, declared, rule, key)
    if isinstance(value, dict) and key not in declared:
        entries = {name: _part(entry, declared, rule, f"{key}.{name}") for name, entry in value.items()}
        return _DeclaredEntries(entries, rule, key, declared)
    return value


def _any(key: str, declared: Set[str]) -> bool:
    return key in declared or any(name.startswith(f"{key}.") for name in declared)


class _DeclaredEntries(dict[str, Any]):
    """The declared entries of a section of named ones, such as ``datasets``. Others raise UserError."""

    def __init__(self, entries: dict[str, Any], rule: str, key: str, declared: Set[str]) -> None:
        super().__init__({name: value for name, value in entries.items() if _any(f"{key}.{name}", declared)})
        self.rule, self.key = rule, key

    def __missing__(self, name: object) -> NoReturn:
        raise undeclared(self.rule, f"{self.key}.{name}")

    def get(self, name: str, default: Any = None) -> Any:
        """A declared entry. ``default`` is never used: an entry that is not declared is an error."""
        return self[name]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or self.__missing__(name)
