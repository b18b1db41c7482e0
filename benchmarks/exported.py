"""Figures of exported networks in ONNX Runtime, against torchvision's own export."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from peers import onnx_runtime, torchvision
from timing import Figures, take_turns

import densespec

SIZE = 224


def inference(variant: str, batch: int, rounds: int) -> Figures:
    """Milliseconds in ONNX Runtime."""
    x = np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        theirs = Path(folder) / "torchvision.onnx"
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(
                torchvision(variant).eval(), (torch.from_numpy(x),), str(theirs), dynamo=True
            )
        files = {"torchvision's own export": theirs}
        for name, optimize in (("layers", False), ("inference", True)):
            files[name] = Path(folder) / f"{name}.onnx"
            densespec.export(variant, files[name], seed=0, optimize=optimize, check=False)
        sides = {name: onnx_runtime(str(path), x) for name, path in files.items()}
        return take_turns(sides, rounds)
