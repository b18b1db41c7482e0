"""The tutorials: what they import is public, and their pages are of the present notebooks.

``nox -s notebooks`` runs them, which takes minutes.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.notebooks import DOCS, FIGURES, NOTEBOOKS, signature

SITE = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
PUBLIC = {"densespec", *re.findall(r"- api/(.*)\.md$", SITE, re.M)}
"""The modules that have a page of reference."""

each_notebook = pytest.mark.parametrize("page", NOTEBOOKS)


def _page(name: str) -> str:
    return (DOCS / "tutorials" / f"{name}.md").read_text(encoding="utf-8")


@each_notebook
def test_the_page_is_of_the_present_notebook(page: str) -> None:
    """Where this fails: ``nox -s notebooks -- NAME``."""
    assert signature(NOTEBOOKS[page]) in _page(page)


@each_notebook
def test_the_figures_of_a_page_are_there_and_no_others(page: str) -> None:
    shown = set(re.findall(r"^!\[.+\]\(\.\./(images/.*)\)$", _page(page), re.M))
    assert shown == {
        f.relative_to(DOCS).as_posix() for f in (DOCS / FIGURES).glob(f"{page}-[0-9]*")
    }


def test_every_page_has_its_notebook() -> None:
    assert {path.stem for path in DOCS.glob("tutorials/*.md")} == set(NOTEBOOKS)


def _names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Find what a notebook takes of densespec's packages: modules, and names in them."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((each.name, "__name__") for each in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from ((module, each.name) for each in names)
            case ast.Attribute(value=ast.Name(id="densespec" as module), attr=name):
                yield module, name


@each_notebook
def test_what_a_notebook_takes_is_public_and_there(page: str) -> None:
    tree = ast.parse(NOTEBOOKS[page].read_text(encoding="utf-8"))
    for module, name in _names(tree):
        package = module.partition(".")[0]
        if package.startswith("densespec"):
            assert module in PUBLIC
            assert _has(module, name), f"{module} has no {name}"


def _has(module: str, name: str) -> bool:
    """Say whether a module has a name; those that need a framework are read, and not imported."""
    if f"{module}.{name}" in PUBLIC:
        return True
    if module.partition(".")[0] == "densespec":
        return hasattr(importlib.import_module(module), name)
    place = importlib.util.find_spec(module)
    assert place is not None
    assert place.origin is not None
    source = Path(place.origin).read_text(encoding="utf-8")
    return name == "__name__" or re.search(rf"\b(as|def|class) {name}\b", source) is not None
