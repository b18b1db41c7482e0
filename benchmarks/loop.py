"""Steps of a run, with its log, its means and its batches, and the same steps of PyTorch alone."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from timing import Figures

import densespec
from densespec import data
from densespec.training.progress import Silent

BATCH, SIDE, CLASSES = 64, 32, 10


class Clock(Silent):
    """Notes when each step of a run is done."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def step(self, line: Any) -> None:
        self.times.append(time.perf_counter())


def of_a_run(spec: densespec.DenseNetSpec, x: np.ndarray, y: np.ndarray) -> list[float]:
    """Milliseconds of each step of a run on bytes in memory."""
    clock = Clock()
    recipe = densespec.get_recipe("cifar+").replace(epochs=1, batch_size=BATCH, augmentation="none")
    with tempfile.TemporaryDirectory() as folder:
        densespec.train(
            spec,
            data=data.Dataset.of(x, y, x[:BATCH], y[:BATCH]),
            recipe=recipe,
            backend="torch.nn",
            out=Path(folder) / "run",
            validate=False,
            progress=clock,
        )
    return [1e3 * float(taken) for taken in np.diff(clock.times)]


def of_pytorch(spec: densespec.DenseNetSpec, x: np.ndarray, y: np.ndarray) -> list[float]:
    """Milliseconds of each step of PyTorch's own optimizer on tensors that are there already."""
    import torch

    model: Any = densespec.build(spec, backend="torch.nn").train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4, nesterov=True)
    images, labels = torch.from_numpy(x).float().div(255), torch.from_numpy(y)
    times = [time.perf_counter()]
    for start in range(0, len(x), BATCH):
        optimizer.zero_grad()
        loss: Any = torch.nn.functional.cross_entropy(
            model(images[start : start + BATCH]), labels[start : start + BATCH]
        )
        loss.backward()
        optimizer.step()
        loss.item()
        times.append(time.perf_counter())
    return [1e3 * float(taken) for taken in np.diff(times)]


def steps(rounds: int, *, variant: str, each: int = 12) -> Figures:
    """Milliseconds of steps of the one and of the other, in turn, but for the first two of each."""
    spec = densespec.get(variant).replace(classes=CLASSES)
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (each * BATCH, 3, SIDE, SIDE), np.uint8)
    y = draw.integers(0, CLASSES, len(x))
    figures: Figures = {"run": [], "PyTorch": []}
    for _ in range(rounds):
        figures["run"] += of_a_run(spec, x, y)[2:]
        figures["PyTorch"] += of_pytorch(spec, x, y)[2:]
    return figures
