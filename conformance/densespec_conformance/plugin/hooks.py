"""The plugin tells other plugins this, beside what pytest tells them."""

from __future__ import annotations

from densespec_conformance.plugin.collecting import CaseItem


def pytest_densespec_case_begun(item: CaseItem) -> None:
    """Hear that a case is under way; pytest hears of it when its result is there."""
