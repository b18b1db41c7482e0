"""What the site takes from outside ``docs/``: a hook of mkdocs.

Pages link to files of the repository by their relative paths, as hosts of repositories show them.
On the site, some of these files are pages (``PAGES``) and the others are beside them, as they are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
ROOT = DOCS.parent

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "examples/third_party/README.md": "third-party.md",
}
"""The pages that stand outside ``docs/``, and what each is called on the site."""

API = "api"
"""The folder of pages that hold the docstrings of a module, ``api/MODULE.md``."""

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, /, *, config: MkDocsConfig) -> Files:
    """Add the pages and files that stand outside ``docs/``, and a page for each listed module."""
    for source, place in PAGES.items():
        _add(files, File.generated(config, place, abs_src_path=str(ROOT / source)))
    modules = modules_of(config.nav)
    for module in modules:
        text = "\n".join(_about(module, modules))
        _add(files, File.generated(config, f"{API}/{module}.md", content=text))
    for source in sorted(_linked(files)):
        path = str(ROOT / source)
        _add(files, File.generated(config, f"{_BESIDE}/{source}", abs_src_path=path))
    return files


_BESIDE = "repository"
"""The folder of the site where files of the repository stand as they are."""

_PATHS = (ROOT, ROOT / "backends", ROOT / "conformance")


def _about(module: str, pages: Collection[str]) -> Iterator[str]:
    """Write what mkdocstrings makes a page of: a module, and what it takes from others to offer it.

    What is offered from a module that has a page of its own is linked to.
    """
    yield f"# {module}\n\n::: {module}\n"
    offered = list(_offered(ast.parse(_source(module).read_text(encoding="utf-8"))))
    elsewhere = [name for name in offered if name.rpartition(".")[0] in pages]
    if elsewhere:
        links = ", ".join(f"[`{name.rpartition('.')[2]}`][{name}]" for name in elsewhere)
        yield f"Also here: {links}.\n"
    for name in offered:
        if name not in elsewhere:
            yield f"::: {name}\n    options:\n      show_root_heading: true\n"


def _source(module: str) -> Path:
    places = [path.joinpath(*module.split(".")) for path in _PATHS]
    found = [p for place in places for p in (place.with_suffix(".py"), place / "__init__.py")]
    return next(path for path in found if path.is_file())


def _offered(tree: ast.Module) -> Iterator[str]:
    """Find what a module imports under its own name, ``from module import name as name``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [one.name for one in node.names if one.asname == one.name]
            yield from (f"{node.module}.{name}" for name in names if not name.startswith("_"))


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links from one file of the repository to another into links from page to page."""
    folder = PurePosixPath(_in_repository(page.file.src_uri)).parent
    here = str(PurePosixPath(page.file.src_uri).parent)

    def on_site(found: re.Match[str]) -> str:
        return relpath(_on_site(normpath(folder / found[1])), here)

    return _LINK.sub(on_site, markdown)


def _in_repository(place: str) -> str:
    """Give the path in the repository of a page of the site."""
    return next((source for source, page in PAGES.items() if page == place), f"docs/{place}")


def _on_site(source: str) -> str:
    """Give the place on the site of a file of the repository."""
    if source in PAGES:
        return PAGES[source]
    inside = source.removeprefix("docs/")
    return inside if inside != source else f"{_BESIDE}/{source}"


def _linked(files: Files) -> Iterator[str]:
    """Find the files outside ``docs/`` that pages link to, which are no pages themselves."""
    for file in files.documentation_pages():
        folder = PurePosixPath(_in_repository(file.src_uri)).parent
        for link in _LINK.findall(file.content_string):
            source = normpath(folder / link)
            if _on_site(source).startswith(f"{_BESIDE}/") and (ROOT / source).is_file():
                yield source


def _listed(nav: Any) -> Iterator[str]:
    """Find the pages of a navigation, at whatever depth."""
    match nav:
        case str():
            yield nav
        case dict():
            for value in nav.values():
                yield from _listed(value)
        case list():
            for value in nav:
                yield from _listed(value)


def modules_of(nav: Any) -> list[str]:
    """Find the modules that have a page in a navigation."""
    places = map(PurePosixPath, _listed(nav))
    return [place.stem for place in places if place.parent.name == API]


def _add(files: Files, file: File) -> None:
    file.inclusion = InclusionLevel.INCLUDED
    files.append(file)
