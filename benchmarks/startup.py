"""Figures of starting up."""

from __future__ import annotations

import subprocess
import sys

from timing import Figures, take_turns


def importing(rounds: int) -> Figures:
    """Milliseconds of a Python process that does nothing but import."""
    figures = take_turns(
        {
            name: lambda name=name: subprocess.run(  # type: ignore[misc]
                [sys.executable, "-c", f"import {name}"], check=True
            )
            for name in ("densespec", "numpy")
        },
        rounds,
    )
    figures["numpy and 50 ms"] = [taken + 50 for taken in figures["numpy"]]
    return figures
