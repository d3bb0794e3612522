"""Digests of the code that a rule's script runs: a result depends on it, as on inputs and settings.

Torch-free, because the Snakefile imports this module.
"""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from crossdiff.provenance import json_cache

LIBRARY = Path(__file__).parent.parent
# The folder of the Snakefile, rules/ and data/. An installed wheel has them inside the library (setup.py).
ROOT = LIBRARY / "shipped" if (LIBRARY / "shipped").exists() else LIBRARY.parent.parent
SCRIPTS = ROOT / "workflow_scripts"
PARSER = 2  # version of ``_parse``: its results are kept in a cache


@cache
def code_digest(script: str, *modules: str) -> str:
    """Digest of the code of ``workflow_scripts/<script>.py``, 16 hexadecimal digits.

    It covers the script and all crossdiff modules that it imports, directly or not. ``modules`` names further
    modules, which the script imports by a name in the config. The digest is taken from the syntax trees, so
    comments, docstrings, formatting and modification times do not count.
    """
    return parts_digest(code_parts(script, *modules))


def code_parts(script: str, *modules: str) -> dict[str, str]:
    """File -> digest of its syntax tree, for every file that ``code_digest`` covers."""
    return parts_of(code_files(script, *modules))


def parts_of(files: list[Path]) -> dict[str, str]:
    """File -> digest of its syntax tree."""
    return {_name(path): _parsed(path)[0] for path in files}


def _name(path: Path) -> str:
    """The path of a file in a checkout, also where it is read from an installed wheel.

    A file of neither the library nor the scripts is named without its folder.
    """
    for folder, there in ((SCRIPTS, "workflow_scripts"), (LIBRARY, "src/crossdiff")):
        if path.is_relative_to(folder):
            return f"{there}/{path.relative_to(folder).as_posix()}"
    return path.name


def home(root: Path) -> Path:
    """The folder of the Snakefile for runs in ``root``: ``root`` if it is a checkout, else ``ROOT``.

    The library of a wheel runs the wheel's rules everywhere, because those of a checkout may be of another
    version.
    """
    wheel = ROOT.is_relative_to(LIBRARY)
    return root if not wheel and (root / "rules/crosscoders.smk").exists() else ROOT


def parts_digest(parts: dict[str, str]) -> str:
    """One digest of all parts, 16 hexadecimal digits."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(parts.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def code_files(script: str, *modules: str) -> list[Path]:
    """The script, ``modules`` and the crossdiff modules that they import, sorted."""
    files = [SCRIPTS / f"{script}.py"]
    for name in modules:
        files += _module_files(name) if name.split(".")[0] == LIBRARY.name else [_file_outside(name)]
    return closure(files)


def _file_outside(module: str) -> Path:
    """The file of a module that is not part of crossdiff. Raises ModuleNotFoundError if there is none."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {module!r}")
    return Path(spec.origin)


def closure(files: list[Path]) -> list[Path]:
    """The given Python files and the crossdiff modules that they import, directly or not, sorted."""
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
    # Syntax trees depend on the version of Python, and __init__.py files are read in another way.
    key = f"{PARSER} {sys.version_info[:2]} {path.name == '__init__.py'} {hashlib.sha256(source).hexdigest()}"
    if key not in parsed_before():
        parsed_before()[key] = _parse(source, path)
    digest, names = parsed_before()[key]
    return digest, names


@cache
def parsed_before() -> json_cache.JsonCache:
    """The results of ``_parse`` for each content of a file, kept between runs."""
    return json_cache.JsonCache(json_cache.FOLDER / "code.json")


def _parse(source: bytes, path: Path) -> tuple[str, list[str]]:
    tree = ast.parse(source, str(path))
    names: list[str] = []
    # Imports inside the functions of a package's __init__.py do not run when one of its modules is imported.
    for node in tree.body if path.name == "__init__.py" else _run(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]  # some are no modules
            names += [node.module, *submodules]
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node) is not None
        ):
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16], names


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, without the code that only a type checker reads."""
    yield node
    below: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
        below = node.orelse
    for child in below:
        yield from _run(child)


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    return tuple(file for name in _parsed(path)[1] for file in _module_files(name))


@cache
def _module_files(name: str) -> tuple[Path, ...]:
    """The file of a crossdiff module, and the __init__.py of each package above it.

    A part of the name that is no module adds nothing. Empty for names outside crossdiff.
    """
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
