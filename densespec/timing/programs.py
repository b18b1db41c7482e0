"""Runs a target in its process: a built model, or an exported file that was loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from densespec.backends import ComputingDevice, TimeableBackend, get_backend
from densespec.building import build, origin_of
from densespec.deploy import export
from densespec.deploy.formats import get_format
from densespec.deploy.network import ExportedProgram
from densespec.errors import DensespecError
from densespec.network.spec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe
from densespec.timing.machine import speed_of

ON_DEVICE = 8192
"""A device other than a CPU multiplies matrices of this many rows and columns."""

LEARNING_RATE = 1e-3


class TimedProgram(Protocol):
    """Represents a target that has started.

    Attributes:
        device: The device on which it computes; None if that is unknown.
        device_name: The name of the device.
    """

    device: ComputingDevice | None
    device_name: str

    def shape_of(self, batch: int, size: Sequence[int] | None) -> tuple[int, ...]:
        """Return the shape (batch, channels, *spatial) of an input, or one of images.

        Raises:
            DensespecError: It takes no such input.
        """
        ...

    def caller(self, batch: int, size: Sequence[int] | None) -> Callable[[], object]:
        """Return what runs it once, on an input of a shape, and returns when that is computed."""
        ...

    def device_speed(self) -> float | None:
        """Measure the GFLOP/s of its device; None for a CPU."""
        ...


def program_of(task: Mapping[str, Any]) -> TimedProgram:
    """Start what a task describes; see :mod:`densespec.timing.measuring`."""
    if task["backend"] is not None:
        return TimedModel(task)
    return TimedFile(task)


def export_to(task: Mapping[str, Any]) -> tuple[int, ...]:
    """Export the network of a task to the task's path and format, and give its usual size."""
    options = {"format": task["format"], "dtype": task["dtype"] or "float32", "check": False}
    reading, spec = task["reading"], task["spec"]
    if task["weights"] is None:
        done = export(spec, task["path"], seed=0, **options, **reading)
    else:
        done = export(task["weights"], task["path"], spec=spec, **options, **reading)
    return usual_size(done.graph.spec)


def usual_size(spec: DenseNetSpec) -> tuple[int, ...]:
    """Return the size of images that a network is usually for."""
    return (224 if spec.shrinks_early else 32,) * spec.spatial_dims


class TimedModel:
    """Runs a model that a backend built, on the device that its users would take."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        self._backend = get_backend(task["backend"])
        self._recipe = None
        if task["work"] == "training":
            self._recipe = TrainingRecipe(dtype=task["dtype"] or "float32")
        self._model = build(
            task["spec"],
            backend=task["backend"],
            weights=task["weights"],
            dtype=task["dtype"],
            **task["reading"],
        )
        self.graph = origin_of(self._model).graph
        self.device, self.device_name = None, "not told"
        if isinstance(self._backend, TimeableBackend):
            self.device = self._backend.device()
            self.device_name = self.device.name
            self._model = self._backend.place(self._model)
        self._trainer: Any = None

    def shape_of(self, batch: int, size: Sequence[int] | None) -> tuple[int, ...]:
        spec = self.graph.spec
        return (batch, spec.in_channels, *(size or usual_size(spec)))

    def caller(self, batch: int, size: Sequence[int] | None) -> Callable[[], object]:
        x = _drawn(self.shape_of(batch, size), "float32")
        if self._recipe is not None:
            return self._step(x, self._recipe)
        if isinstance(self._backend, TimeableBackend):
            return self._backend.caller(self._model, x)
        names = [node.name for node in self.graph.given]
        return lambda: self._backend.forward(self._model, self.graph, x, names)

    def _step(self, x: np.ndarray, recipe: TrainingRecipe) -> Callable[[], object]:
        if self._trainer is None:
            self._trainer = self._backend.trainer(self._model, self.graph, recipe)
        labels = np.random.default_rng(0).integers(0, self.graph.spec.classes, len(x))
        return lambda: self._trainer.step(x, labels, learning_rate=LEARNING_RATE, gradients=False)

    def device_speed(self) -> float | None:
        if self.device is None or self.device.name == "cpu":
            return None
        return speed_of(self.device.product(ON_DEVICE), ON_DEVICE)


class TimedFile:
    """Runs an exported file in its runtime."""

    device: ComputingDevice | None = None

    def __init__(self, task: Mapping[str, Any]) -> None:
        chosen = get_format(task["format"])
        assert chosen.load is not None
        self._path, self._usual = task["path"], task["usual_size"]
        self._last = chosen.layout == "channels last"
        self._exported: ExportedProgram = chosen.load(Path(task["path"]))
        self.device_name = self._exported.device

    def shape_of(self, batch: int, size: Sequence[int] | None) -> tuple[int, ...]:
        taken = self._exported.shape
        images = self._exported.dtype == "uint8"
        channels = taken[-1] if images else taken[1]
        fixed = taken[1:-1] if images else taken[2:]
        sizes = tuple(size or (self._usual if None in fixed and self._usual else fixed))
        if None in sizes or channels is None:
            raise DensespecError(f"{self._path} takes inputs of any size: say which (--size)")
        wanted = (batch, *sizes, channels) if images else (batch, channels, *sizes)
        if len(wanted) != len(taken) or any(
            have not in (None, want) for have, want in zip(taken, wanted, strict=True)
        ):
            raise DensespecError(f"{self._path} takes {_text(taken)}, not {_text(wanted)}")
        return wanted

    def caller(self, batch: int, size: Sequence[int] | None) -> Callable[[], object]:
        x = _drawn(self.shape_of(batch, size), self._exported.dtype)
        if self._last and self._exported.dtype != "uint8":  # so that the file need not copy it
            x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        return lambda: self._exported.run(x)

    def device_speed(self) -> float | None:
        return None


def _text(shape: Sequence[int | None]) -> str:
    return " x ".join("any" if n is None else str(n) for n in shape)


def _drawn(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    random = np.random.default_rng(0)
    if dtype == "uint8":
        return random.integers(0, 256, shape, dtype=np.uint8)
    return random.standard_normal(shape, np.float32).astype(dtype)
