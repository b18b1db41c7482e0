"""Entry points as if a package that publishes them were installed."""

from __future__ import annotations

import sys
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest


def publish(monkeypatch: pytest.MonkeyPatch, group: str, **published: Any) -> None:
    """Publish objects under a group by name, beside what is installed."""
    module = ModuleType("another_package")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, value in published.items():
        setattr(module, name, value)
    publish_places(monkeypatch, group, **{name: f"another_package:{name}" for name in published})


def publish_places(monkeypatch: pytest.MonkeyPatch, group: str, **places: str) -> None:
    """Publish ``module:attribute`` under a group by name, whether it is there or not."""
    installed = metadata.entry_points

    def entry_points(**wanted: str) -> list[metadata.EntryPoint]:
        added = [metadata.EntryPoint(name, place, group) for name, place in places.items()]
        return [*installed(**wanted), *(entry for entry in added if entry.matches(**wanted))]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
