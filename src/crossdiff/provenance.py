"""What a rule's result depends on besides its inputs and settings: the code that its script runs.

Torch-free: the Snakefile imports this module.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

LIBRARY = Path(__file__).parent
SCRIPTS = LIBRARY.parent.parent / "workflow_scripts"


@cache
def code_digest(script: str, *modules: str) -> str:
    """Digest of ``workflow_scripts/<script>.py`` and of every crossdiff module that it imports, directly or not.

    ``modules`` are further ones that it comes to by name only. Taken from the syntax trees: comments, docstrings and formatting do not
    count, and neither do modification times.
    """
    digest = hashlib.sha256()
    for path in code_files(script, *modules):
        digest.update(path.name.encode() + b"\0" + _tree_digest(path).encode() + b"\0")
    return digest.hexdigest()[:16]


def code_files(script: str, *modules: str) -> list[Path]:
    """The script, ``modules`` and the crossdiff modules that they import, sorted."""
    found: set[Path] = set()
    waiting = [SCRIPTS / f"{script}.py"]
    for name in modules:
        waiting += _module_files(name) if name.split(".")[0] == LIBRARY.name else [Path(find_spec(name).origin)]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path)
    return sorted(found)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def _tree_digest(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node) is not None:
            del body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    return tuple(file for name in _imported_names(_tree(path)) for file in _module_files(name))


def _imported_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # may be a submodule


def _module_files(name: str) -> Iterator[Path]:
    """The module's file and the packages above it; nothing for names outside crossdiff or inside a module."""
    parts = name.split(".")
    if parts[0] != LIBRARY.name:
        return
    for depth in range(1, len(parts) + 1):
        path = LIBRARY.joinpath(*parts[1:depth])
        if (path / "__init__.py").exists():
            yield path / "__init__.py"
        elif path.with_suffix(".py").exists():
            yield path.with_suffix(".py")
