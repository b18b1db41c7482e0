"""The project's own contract of import-linter finds the circles that it is there for."""

from __future__ import annotations

import pytest

grimp = pytest.importorskip("grimp", reason="import-linter is not installed")

from tests.contracts import Acyclic  # noqa: E402


@pytest.mark.parametrize(
    ("imports", "kept"),
    [
        ([("house.room", "house.hall"), ("house", "house.room")], True),
        ([("house.room", "house.hall"), ("house.hall", "house.room")], False),
        ([("house.room", "house"), ("house", "house.room")], False),
    ],
    ids=["no circle", "two modules", "a module and its package's front"],
)
def test_a_circle_breaks_the_contract(imports: list[tuple[str, str]], kept: bool) -> None:
    graph = grimp.ImportGraph()
    for importer, imported in imports:
        graph.add_import(importer=importer, imported=imported)
    assert Acyclic("no circles", {}, {}).check(graph, verbose=False).kept is kept
