"""What a rule's result depends on besides its inputs and settings: the code that its script runs.

Torch-free: the Snakefile imports this module.
"""

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from crossdiff.provenance import json_cache

LIBRARY = Path(__file__).parent.parent
ROOT = LIBRARY.parent.parent
SCRIPTS = ROOT / "workflow_scripts"
PARSER = 2  # version of what ``_parse`` finds, which is remembered


@cache
def code_digest(script: str, *modules: str) -> str:
    """Digest of ``workflow_scripts/<script>.py`` and of every crossdiff module that it imports, directly or not.

    ``modules`` are further ones that it comes to by name only. Taken from the syntax trees: comments, docstrings and formatting do not
    count, and neither do modification times.
    """
    return parts_digest(code_parts(script, *modules))


def code_parts(script: str, *modules: str) -> dict[str, str]:
    """File -> digest of its syntax tree, of what ``code_digest`` covers."""
    return parts_of(code_files(script, *modules))


def parts_of(files: list[Path]) -> dict[str, str]:
    """File -> digest of its syntax tree. Files outside the repository by their name alone."""
    return {
        (path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name): _parsed(path)[0]
        for path in files
    }


def parts_digest(parts: dict[str, str]) -> str:
    """One digest of them all."""
    return hashlib.sha256(
        "".join(f"{name} {digest}\n" for name, digest in sorted(parts.items())).encode()
    ).hexdigest()[:16]


def code_files(script: str, *modules: str) -> list[Path]:
    """The script, ``modules`` and the crossdiff modules that they import, sorted."""
    files = [SCRIPTS / f"{script}.py"]
    for name in modules:
        files += _module_files(name) if name.split(".")[0] == LIBRARY.name else [Path(find_spec(name).origin)]
    return closure(files)


def closure(files: list[Path]) -> list[Path]:
    """Python files and the crossdiff modules that they import, directly or not, sorted."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path)
    return sorted(found)


@cache
def _parsed(path: Path) -> tuple[str, list[str]]:
    """Digest of a file's syntax tree without docstrings, and the names that it imports (``_parse``)."""
    source = path.read_bytes()
    # Other Pythons have other syntax trees, and a package's own file is read in another way.
    key = f"{PARSER} {sys.version_info[:2]} {path.name == '__init__.py'} {hashlib.sha256(source).hexdigest()}"
    if key not in parsed_before():
        parsed_before()[key] = _parse(source, path)
    digest, names = parsed_before()[key]
    return digest, names


@cache
def parsed_before() -> json_cache.JsonCache:
    """Content of a file -> what it parses to."""
    return json_cache.JsonCache(json_cache.FOLDER / "code.json")


def _parse(source: bytes, path: Path) -> tuple[str, list[str]]:
    tree = ast.parse(source, str(path))
    names: list[str] = []
    # What a package offers lazily is not run by who imports a module of it.
    for node in tree.body if path.name == "__init__.py" else _run(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [
                node.module,
                *(f"{node.module}.{alias.name}" for alias in node.names),
            ]  # may be a submodule
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node) is not None
        ):
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16], names


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, but for what only a type checker reads."""
    yield node
    checked = isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING"
    for child in [*node.orelse] if checked else ast.iter_child_nodes(node):
        yield from _run(child)


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    return tuple(file for name in _parsed(path)[1] for file in _module_files(name))


@cache
def _module_files(name: str) -> tuple[Path, ...]:
    """The module's file and the packages above it; nothing for names outside crossdiff or inside a module."""
    parts = name.split(".")
    found: list[Path] = []
    if parts[0] == LIBRARY.name:
        for depth in range(1, len(parts) + 1):
            path = LIBRARY.joinpath(*parts[1:depth])
            if (path / "__init__.py").exists():
                found.append(path / "__init__.py")
            elif path.with_suffix(".py").exists():
                found.append(path.with_suffix(".py"))
    return tuple(found)
