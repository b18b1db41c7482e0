"""Runs of the tests draw no curves, which take longer than the runs."""

from __future__ import annotations

import pytest

from densespec.training import loop


@pytest.fixture(autouse=True)
def _no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "curves" not in request.keywords:
        monkeypatch.setattr(loop, "can_draw", lambda: False)
