"""The rules of prose: how long lines and sentences may be, in Markdown, docstrings and the report's pages."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

LINE, PAGE, WORDS = 120, 110, 35  # characters, characters, words

FENCE = re.compile(r"\s*(```|~~~)")
LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+")
LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
IMAGE = r"!?\[[^\[\]]*\]\(\S+\)"  # or a link
ALONE = re.compile(rf"\s*(?:[-*+]\s+)?(?:{IMAGE}|\[{IMAGE}\]\(\S+\)|<?https?://\S+)[.,;:]?\s*")
CODE = re.compile(r"``[^`]+``|`[^`]+`")
ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|et al|[Ff]igs?|[Ee]qs?|[Ss]ec|cf|vs|pp?)|^\d+)\.$")
END = re.compile(r"[.!?:](?=[\"')\]*_]*(?:\s|$))[\"')\]*_]*")


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of Markdown outside code blocks; numbers start at 1."""
    fence = None
    for number, line in enumerate(text.splitlines(), 1):
        if found := FENCE.match(line):
            fence = found[1] if fence is None else None if fence == found[1] else fence
        elif fence is None:
            yield number, line


def is_row(line: str) -> bool:
    return line.lstrip().startswith("|")


def long_lines(text: str) -> list[str]:
    """Describe each line of Markdown that is too long. A line that is one link or image can't be broken."""
    lines = ((number, line) for number, line in prose_lines(text) if not ALONE.fullmatch(line))
    return too_long(lines, LINE)


def long_lines_of_page(text: str) -> list[str]:
    """Describe each line of a template, script or style sheet that is too long."""
    return too_long(enumerate(text.splitlines(), 1), PAGE)


def too_long(lines: Iterable[tuple[int, str]], limit: int) -> list[str]:
    return [
        f"line {number} has {len(line)} characters, allowed: {limit}"
        for number, line in lines
        if len(line) > limit
    ]


def markdown_paragraphs(text: str) -> Iterator[str]:
    """Give paragraphs and list items as one line each, without headings, tables and targets of links."""
    lines: list[str] = []
    inside = dict(prose_lines(text))
    for number in range(1, len(text.splitlines()) + 2):
        line = inside.get(number, "")
        outside = not line.strip() or line.startswith("#") or is_row(line)
        item = LIST_ITEM.match(line)
        if (outside or item) and lines:
            yield LINK.sub(r"\1", " ".join(lines))
            lines = []
        if not outside:
            lines.append(line[item.end() :].strip() if item else line.strip().removeprefix("> "))


def docstring_paragraphs(docstring: str) -> Iterator[str]:
    """Give paragraphs and list items of a cleaned docstring as one line each, without indented code."""
    for block in re.split(r"\n\s*\n", docstring):
        lines: list[str] = []
        for line in block.splitlines():
            code = line.startswith("    ") and not lines
            item = LIST_ITEM.match(line)
            if item and lines:
                yield " ".join(lines)
                lines = []
            if not code:
                lines.append(line[item.end() :] if item else line.strip())
        if lines:
            yield " ".join(lines)


def sentences(paragraph: str) -> list[str]:
    """Split after . ! ? : before a blank or the end, but not after an abbreviation and not inside code."""
    hidden = CODE.sub(lambda code: "x" * len(code[0]), paragraph)
    parts, start = [], 0
    for end in END.finditer(hidden):
        if not ABBREVIATION.search(hidden[start : end.start() + 1].strip()):
            parts.append(paragraph[start : end.end()].strip())
            start = end.end()
    return [part for part in [*parts, paragraph[start:].strip()] if re.search(r"\w", part)]


def words(sentence: str) -> int:
    """Count words; a span of code is one word, and a dash or a sign alone is none."""
    return sum(bool(re.search(r"\w", word)) for word in CODE.sub("x", sentence).split())


def long_sentences(paragraphs: Iterator[str]) -> list[str]:
    """Describe each sentence that has too many words."""
    every = (sentence for paragraph in paragraphs for sentence in sentences(paragraph))
    return [f"{words(one)} words: {one}" for one in every if words(one) > WORDS]


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """(name, docstring) of a module and of its public classes, functions and methods."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from _docstrings(tree, path.stem)


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef, name: str) -> Iterator[tuple[str, str]]:
    if text := ast.get_docstring(node):
        yield name, text
    for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            yield from _docstrings(child, f"{name}.{child.name}")
