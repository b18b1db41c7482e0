"""Peer tests run where they are asked for by path: they build and run 20 full-size networks."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    folder = config.invocation_params.dir
    asked = (folder / argument.split("::")[0] for argument in config.invocation_params.args)
    return None if any(HERE in (path, *path.parents) for path in asked) else True
