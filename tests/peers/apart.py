"""Finds packages that are installed in folders of their own, beside the other peers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def folder_of(name: str) -> str:
    """The folder of a package by the name that ``noxfile.py`` has for it; without it, the test is
    skipped."""
    folders = (Path(entry) / "apart" / name for entry in sys.path)
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return str(found)
