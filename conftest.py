"""How the tests run: a quick tier, and a full one with ``pytest --full``; one thread a process."""

from __future__ import annotations

import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""The tests' networks are small, and threads that wait for each other take most of the time of a
machine that has other things to do. Frameworks read this when they are imported."""


@pytest.fixture
def small_blocks_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``torch.nn+fast`` fuse blocks that are too small to gain by it."""
    monkeypatch.setattr("densespec_torch.modes.FEWEST", 0)


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes that tests start, even if a shell has them ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="Run the tests marked 'full' as well.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    items[:] = [item for item in items if item not in set(left_out)]
    config.hook.pytest_deselected(items=left_out)
