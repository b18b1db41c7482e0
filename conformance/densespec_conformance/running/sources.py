"""Finds what a module offers by its source, which is read and not run: importing is for targets."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

MOST_MODULES = 100
"""At most this many modules are followed from which others import everything."""

DYNAMIC = re.compile(r"__getattr__|globals\(|setattr\(|exec\(|sys\.modules")
"""Matches the source of modules whose attributes no source tells."""


def surely_lacks(module: str, attribute: str) -> bool:
    """Say whether a module has no such attribute, or is not there; False if it is not sure."""
    name = re.compile(rf"\b{re.escape(attribute)}\b")
    rest, seen = [module], set[str]()
    while rest:
        one = rest.pop()
        if one in seen:
            continue
        seen.add(one)
        spec = found(one)
        if spec is None and one == module:
            return found(module.partition(".")[0]) is not None
        text = _source(spec)
        if text is None or DYNAMIC.search(text) or name.search(text) or len(seen) > MOST_MODULES:
            return False
        rest += _taken_whole(one, spec, text)
    return not found(f"{module}.{attribute}")


def found(module: str) -> ModuleSpec | None:
    """Find a module, in this folder too, without importing the packages that it is in."""
    path: list[str] | None = None
    spec: ModuleSpec | None = None
    for name in module.split("."):  # a folder without __init__.py is not found by a dotted name
        here = [str(Path.cwd())] if path is None else []
        spec = PathFinder.find_spec(name, path) or (
            PathFinder.find_spec(name, here) if here else None
        )
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return spec


def _source(spec: ModuleSpec | None) -> str | None:
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        return Path(spec.origin).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _taken_whole(module: str, spec: ModuleSpec | None, text: str) -> Iterator[str]:
    """Yield the modules from which a module imports everything."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    package = module if spec and spec.submodule_search_locations else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            home = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = [*(home if node.level else []), *([node.module] if node.module else [])]
            yield ".".join(parts)
