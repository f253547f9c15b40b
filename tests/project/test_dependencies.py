"""Every package that the code imports is declared in pyproject.toml, and every declared package is used."""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.tools import ROOT

OWN = {"bench", "position", "streamer", "tests"}
"""This project's packages, and a module shown in docs/streaming.md."""
# `./run bench` starts with the server's packages only.
RUNTIME = ("streamer", "bench")
DEVELOPMENT = ("tests", "docs")
NOT_IMPORTED = {
    "import-linter": "./run test starts it",
    "mypy": "./run test starts it",
    "pytest-asyncio": "pytest loads it",
    "pytest-timeout": "pytest loads it",
    "pytest-xdist": "pytest loads it",
    "ruff": "./run test starts it",
    "types-psutil": "mypy reads it",
}
"""Declared packages that are used without an import."""


def _sources(folder: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each Python file in a folder, and of each Python program in its Markdown files."""
    for path in sorted((ROOT / folder).rglob("*")):
        name = str(path.relative_to(ROOT))
        if path.suffix == ".py" and "node_modules" not in path.parts:
            yield name, path.read_text()
        elif path.suffix == ".md" and folder == "docs":
            for program in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
                yield name, program


def _modules(text: str) -> Iterator[str]:
    """Yield the top-level modules that a program imports, at any level of the code."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@cache
def _imported(folder: str) -> dict[str, set[str]]:
    """Return the third-party modules that a folder imports, each with the files that import it."""
    found = defaultdict(set)
    for name, text in _sources(folder):
        for module in _modules(text):
            if module not in sys.stdlib_module_names and module not in OWN:
                found[module].add(name)
    return found


@cache
def _declared() -> tuple[set[str], set[str]]:
    """Return the packages that pyproject.toml declares for the server, and those for development."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return _names(pyproject["project"]["dependencies"]), _names(pyproject["dependency-groups"]["dev"])


def _names(requirements: Sequence[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _packages(module: str) -> set[str]:
    """Return the packages that provide a module."""
    return {canonicalize_name(name) for name in _distributions().get(module, [])}


@pytest.mark.parametrize("folder", [*RUNTIME, *DEVELOPMENT])
def test_imports_are_declared(folder: str) -> None:
    """The server and the measurements import only the server's packages. Tests and documents may import others, too."""
    runtime, development = _declared()
    declared = runtime if folder in RUNTIME else runtime | development
    missing = {module: files for module, files in _imported(folder).items() if not _packages(module) & declared}
    assert missing == {}


def test_declared_packages_are_used() -> None:
    """The server imports each of its packages, and a test or document imports each development package."""
    runtime, development = _declared()
    for declared, folders in ((runtime, RUNTIME[:1]), (development, DEVELOPMENT)):
        used = {package for folder in folders for module in _imported(folder) for package in _packages(module)}
        assert declared - used - NOT_IMPORTED.keys() == set()
        assert used & declared & NOT_IMPORTED.keys() == set(), "imported: remove it from NOT_IMPORTED"
    assert NOT_IMPORTED.keys() <= runtime | development, "not declared: remove it from NOT_IMPORTED"
    assert runtime & development == set(), "a package of the server need not be declared again"
