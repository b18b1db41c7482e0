"""Inputs of frameworks: the very batches of numpy, each framework in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("framework", ["torch", "tensorflow", "jax"])
def test_every_framework_is_given_the_same_batches(framework: str) -> None:
    """Its own kind of dataset, where it has one, and Keras's on it."""
    for package in ("keras", framework):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": framework}
    run = subprocess.run(
        [sys.executable, "-m", "tests.data.inputs_side", framework],
        cwd=ROOT,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
