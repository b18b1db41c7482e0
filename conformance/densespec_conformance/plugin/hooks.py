"""What the plugin tells other plugins, beside what pytest does."""

from __future__ import annotations

from densespec_conformance.plugin.collecting import CaseItem


def pytest_densespec_case_begun(item: CaseItem) -> None:
    """A case is under way; pytest hears of it when its result is there."""
