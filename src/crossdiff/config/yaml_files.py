"""Read YAML files strictly: a key that stands twice is an error, and so is a number that YAML reads as
another one. Plain YAML says nothing.
"""

import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from crossdiff.errors import UserError

_MERGE = "tag:yaml.org,2002:merge"
# Numbers to other bases than people think: 0400 is octal in YAML, and 1:30 is ninety.
_MISREAD = re.compile(r"[-+]?(0[0-7_]+|\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?)")


def read_yaml(path: str | Path) -> Any:
    """The values of a YAML or JSON file.

    Raises UserError for a file that can't be read, for a key that stands twice in one section, and for a
    number such as 0400 or 1:30, which YAML reads as 256 or 90.
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8-sig"), str(path))
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path}: can't be read ({reason})") from error


def parse_yaml(text: str, name: str) -> Any:
    """The values of a ``text`` in YAML. ``name`` names it in errors. Raises UserError as ``read_yaml``
    does.
    """
    # In JSON a tab is white space, which YAML allows only as blanks.
    text = text.replace("\t", " ") if name.endswith(".json") else text
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        for number in _misread(node):
            line, value = number.start_mark.line + 1, loader.construct_object(number)
            raise UserError(
                f"{name}: line {line}: YAML reads {number.value} as {value}; write {value}, or text in quotes"
            )
        for key, lines in _twice(node, loader):
            places = f"{', '.join(map(str, lines[:-1]))} and {lines[-1]}"
            raise UserError(f"{name}: {key} is given more than once, in lines {places}; keep one")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML ({' '.join(str(error).split())})") from error


def _twice(node: yaml.Node, loader: yaml.SafeLoader) -> Iterator[tuple[str, list[int]]]:
    """(full key, its lines from 1) of every key that stands twice in its section. Merged sections don't
    count.
    """
    waiting, seen = [("", node)], set[int]()
    while waiting:
        place, node = waiting.pop(0)
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(f"{place}[{number}]", inner) for number, inner in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            continue
        found: dict[Hashable, tuple[str, list[int]]] = {}
        for key, inner in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            full = f"{place}.{key.value}".lstrip(".")
            waiting.append((full, inner))
            if key.tag != _MERGE:
                found.setdefault(loader.construct_object(key), (full, []))[1].append(key.start_mark.line + 1)
        yield from ((full, lines) for full, lines in found.values() if len(lines) > 1)


def _misread(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """The numbers that YAML reads otherwise than people, with those of keys."""
    waiting, seen = [node], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            waiting += [part for entry in node.value for part in entry]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")):
            if _MISREAD.fullmatch(node.value):
                yield node
