"""The documentation: its generated parts are up to date, and its examples work."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import densespec
from densespec.errors import SpecError
from densespec.network.files import spec_from_toml
from densespec.network.spec import DenseNetSpec
from densespec.reference import kernels as reference
from tests.strategies import tiny

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def _generator() -> ModuleType:
    place = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


GENERATOR = _generator()

SPEC = (DOCS / "spec.md").read_text(encoding="utf-8")
SITE = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
OPS = (DOCS / "ops.md").read_text(encoding="utf-8")


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.mark.parametrize(("name", "text"), GENERATOR.files().items(), ids=GENERATOR.files())
def test_generated_text_is_up_to_date(name: str, text: str) -> None:
    """Where this fails: ``python docs/generate.py``."""
    assert (DOCS / name).read_text(encoding="utf-8") == text


def test_a_page_without_its_markers_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ops.md").write_text("# The ops\n")
    monkeypatch.setattr(GENERATOR, "DOCS", tmp_path)
    with pytest.raises(ValueError, match=r"ops\.md: should have <!-- generated: ops --> and"):
        GENERATOR.page("ops.md")


def test_what_stands_between_markers_is_replaced_and_the_rest_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = "before\n<!-- generated: part -->\nold\n<!-- end: part -->\nafter\n"
    (tmp_path / "page.md").write_text(page)
    monkeypatch.setattr(GENERATOR, "DOCS", tmp_path)
    monkeypatch.setattr(GENERATOR, "PAGES", {"page.md": {"part": lambda: "new"}})
    assert GENERATOR.page("page.md") == (
        "before\n<!-- generated: part -->\n\nnew\n\n<!-- end: part -->\nafter\n"
    )


@pytest.mark.parametrize("number", [f"S{n}" for n in range(1, 25)])
def test_every_constraint_on_a_spec_has_a_row(number: str) -> None:
    assert len(re.findall(rf"^\| {number} \| ", SPEC, re.M)) == 1


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DenseNetSpec)])
def test_every_field_has_its_reason(field: str) -> None:
    reasons = SPEC.partition("## Why each field is there")[2].partition("## Files")[0]
    first_cells = [line.split("|")[1] for line in reasons.splitlines() if line.startswith("| ")]
    assert sum(f"`{field}`" in cell for cell in first_cells) == 1


def test_every_constraint_of_the_reference_has_a_row() -> None:
    folder = Path(reference.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    numbers = set(re.findall(r"\bO\d+\b", source))
    assert set(re.findall(r"^\| (O\d+) \| ", OPS, re.M)) == numbers
    assert numbers == {f"O{n}" for n in range(1, 11)}


@pytest.mark.parametrize("kind", [kind.__name__ for kind in reference.KERNELS])
def test_every_op_has_a_section(kind: str) -> None:
    assert f"\n### {kind}\n" in OPS


def test_the_toml_example_is_the_variant_it_claims_to_be() -> None:
    (example,) = _blocks(SPEC, "toml")
    assert spec_from_toml(example) == densespec.get("densenet169-bc")


def test_the_python_example_runs_and_is_true() -> None:
    (example,) = _blocks(SPEC, "python")
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["spec"] == densespec.get("densenet-bc-100-12")


def test_the_error_shown_is_the_error_raised() -> None:
    with pytest.raises(SpecError) as caught:
        tiny(growth_rate=0)
    assert f"`{caught.value}`" in SPEC


def test_a_compression_rounds_as_the_page_says() -> None:
    assert "of 100 at theta 0.29, 28 are kept" in SPEC
    assert tiny(compression=0.29).compressed(100) == 28


@pytest.mark.parametrize("page", sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")))
def test_the_site_lists_every_page(page: str) -> None:
    """Where this fails: a line in ``mkdocs.yml``, or the site is not built."""
    assert re.search(rf"^ +- .*: {re.escape(page)}$", SITE, re.M)


def test_the_site_has_a_page_for_every_public_module() -> None:
    listed = SITE.partition("Python:")[2]
    pages = set(re.findall(r"- api/([\w.]+)\.md$", listed, re.M))
    text = (DOCS / "design.md").read_text(encoding="utf-8")
    public = text.partition("## Public modules")[2].partition("## Decisions")[0]
    assert pages == set(_modules(re.findall(r"`([\w.]+)`", public)))


def _modules(names: list[str]) -> Iterator[str]:
    """Write out names that stand for the module before them: ``densespec.network.graph, .ops``."""
    package = ""
    for name in names:
        full = f"{package}{name}" if name.startswith(".") else name
        package = full.rpartition(".")[0]
        yield full


@pytest.mark.parametrize("page", ["spec.md", "ops.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = (DOCS / (name or page)).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", target, re.M)
        assert not anchor or anchor in {h.lower().replace(" ", "-") for h in headings}, link


@pytest.mark.parametrize("example", range(2))
def test_the_examples_of_feature_maps_run(example: int) -> None:
    examples = _blocks((DOCS / "features.md").read_text(encoding="utf-8"), "python")
    assert len(examples) == 2
    names: dict[str, Any] = {}
    exec(examples[0].partition("PYRAMID")[0], names)
    exec(examples[example], names)
