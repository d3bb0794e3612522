"""docs/python.md, made from the public names of ``crossdiff``: their signatures and docstrings."""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import crossdiff

LIBRARY = Path(crossdiff.__file__).parent
WIDTH = 120
LINE = 90  # letters of arguments in one line
HEAD = """\
# The Python interface

This page is made by `make reference` from the docstrings in `src/crossdiff/results/`. Do not edit it.
[A notebook](../examples/explore.ipynb) uses most of it on the default run. *Raw* activations are as the
models give them. Model 0 is the base, model 1 the chat model. `crossdiff.__version__` is the installed
version."""
FIRST = "load Pair LoadedCrosscoder".split()  # what a reader starts with
Function = ast.FunctionDef | ast.AsyncFunctionDef


def markdown() -> str:
    """The page."""
    names = [*FIRST, *sorted(crossdiff._ROOMS.keys() - set(FIRST))]
    return "\n\n".join([HEAD, *(block for name in names for block in _name(name))]) + "\n"


def _name(name: str) -> Iterator[str]:
    path = LIBRARY / f"{crossdiff._ROOMS[name].replace('.', '/')}.py"
    source = path.read_text(encoding="utf-8")
    [found] = [node for node in ast.parse(source).body if getattr(node, "name", None) == name]
    assert isinstance(found, Function | ast.ClassDef)
    yield f"## `crossdiff.{name}`"
    if isinstance(found, Function):
        yield from _function(found)
        return
    yield _prose(_docstring(found))
    if fields := _fields(found, source):
        yield f"```python\n{fields}\n```"
    for part in found.body:
        if isinstance(part, Function) and part.name == "__init__":
            if ast.get_docstring(part):  # a user calls it
                yield from _function(part, name)
            yield f"```python\n{_attributes(part, source)}\n```"
        elif isinstance(part, Function) and not part.name.startswith("_"):
            yield f"### `{name}.{part.name}`"
            yield from _function(part)


def _function(function: Function, name: str | None = None) -> Iterator[str]:
    """Its signature, or that of an attribute, and its docstring."""
    returns = f" -> {ast.unparse(function.returns)}" if function.returns and name is None else ""
    if any("property" in ast.unparse(decorator) for decorator in function.decorator_list):
        signature = f"{function.name}:{returns.removeprefix(' ->')}"
    else:
        signature = f"{name or function.name}({_arguments(function)}){returns}"
    yield f"```python\n{signature}\n```"
    yield _prose(_docstring(function))


def _arguments(function: Function) -> str:
    """What a caller gives, in one line or each in its own."""
    args, defaults = function.args.args, function.args.defaults
    last = dict(zip([arg.arg for arg in args[len(args) - len(defaults) :]], defaults, strict=True))
    given = [
        ast.unparse(arg) + (f" = {ast.unparse(last[arg.arg])}" if arg.arg in last else "")
        for arg in args
        if arg.arg != "self"
    ]
    line = ", ".join(given)
    return line if len(line) <= LINE else "\n    " + ",\n    ".join(given) + ",\n"


def _docstring(node: Function | ast.ClassDef) -> str:
    text = ast.get_docstring(node)
    assert text, f"{node.name}: no docstring"
    return text


def _fields(of: ast.ClassDef, source: str) -> str:
    """The fields of a dataclass with their comments, as they stand in the source."""
    there = [part for part in of.body if isinstance(part, ast.AnnAssign)]
    if not there:
        return ""
    lines = source.splitlines()[of.body[0].end_lineno : there[-1].end_lineno]
    return textwrap.dedent("\n".join(lines)).strip()


def _attributes(init: Function, source: str) -> str:
    """The public attributes that a constructor sets and describes with a comment in the same line."""
    lines = source.splitlines()[init.lineno : init.end_lineno]
    found = (re.fullmatch(r" +self\.([a-z]\w*)(?:: [^=]+)? = .*?  # (.+)", line) for line in lines)
    return "\n".join(f"{match[1]}  # {match[2]}" for match in found if match)


def _prose(docstring: str) -> str:
    """A docstring as Markdown, in lines of at most WIDTH letters."""
    text = re.sub(r"docs/([a-z-]+\.md)", r"[\1](\1)", docstring.replace("``", "`"))
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        items = re.split(r"\n(?=- )", block)
        blocks.append("\n".join(_wrapped(" ".join(item.split())) for item in items))
    return "\n\n".join(blocks)


def _wrapped(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
