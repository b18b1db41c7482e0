"""Figures of Keras's engines against ``keras.applications``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from timing import GIVES_BACK, Figures, in_turn, peak_megabytes, seconds, take_turns

SIZE = 224
APPLICATIONS = "keras.applications"


def inference(engine: str, variant: str, batch: int, rounds: int) -> Figures:
    """Milliseconds of ``predict_on_batch``."""
    x, _ = batch_of(batch)
    models = {
        name: model_of(engine, name, variant) for name in (APPLICATIONS, "layers", "inference")
    }
    sides = {name: _predicting(model, x) for name, model in models.items()}
    sides["torch.nn"] = _native(variant, x)
    return take_turns(sides, rounds)


def training(
    engine: str, variant: str, batch: int, rounds: int, modes: tuple[str, ...] = ("fast",)
) -> Figures:
    """Milliseconds of ``train_on_batch`` with SGD and Nesterov momentum."""
    x, labels = batch_of(batch)
    names = (APPLICATIONS, *modes)
    models = {name: compiled(model_of(engine, name, variant)) for name in names}
    sides = {n: _training(model, x, labels) for n, model in models.items()}
    return take_turns(sides, rounds, settle=1)


def training_memory(engine: str, variant: str, batch: int, rounds: int) -> Figures:
    """MB that training steps need beyond the network: the peak of the process over its start."""
    arguments = {"engine": engine, "variant": variant, "batch": batch}
    names = (APPLICATIONS, "layers", "efficient")
    sides = {name: ("engines:step_memory", {**arguments, "name": name}) for name in names}
    return in_turn(sides, rounds, GIVES_BACK)


def step_memory(engine: str, variant: str, batch: int, name: str) -> float:
    """MB that a fresh process has at the peak of its second step, beyond the compiled model.

    The first step also needs memory for compiling. What is left of that is counted, since it can't
    be told from what the framework keeps for the next step.
    """
    model = compiled(model_of(engine, name, variant))
    x, labels = batch_of(batch)
    step = _training(model, x, labels)
    return peak_megabytes(step, first=step)


def building(engine: str, variant: str, rounds: int) -> Figures:
    """Milliseconds of the first building in a fresh process, in which Keras is imported already."""
    names = (APPLICATIONS, "layers", "fast")
    arguments = {"engine": engine, "variant": variant}
    return in_turn({n: ("engines:build_time", {**arguments, "name": n}) for n in names}, rounds)


def build_time(engine: str, variant: str, name: str) -> float:
    _engine(engine)
    return 1e3 * seconds(lambda: model_of(engine, name, variant))


def first_step(engine: str, variant: str, batch: int, rounds: int) -> Figures:
    """Milliseconds of the first training step in a fresh process: tracing, compiling, running."""
    names = (APPLICATIONS, "layers", "fast")
    arguments = {"engine": engine, "variant": variant, "batch": batch}
    return in_turn(
        {n: ("engines:first_step_time", {**arguments, "name": n}) for n in names}, rounds
    )


def first_step_time(engine: str, variant: str, batch: int, name: str) -> float:
    model = compiled(model_of(engine, name, variant))
    x, labels = batch_of(batch)
    start = time.perf_counter()
    model.train_on_batch(x, labels)
    return 1e3 * (time.perf_counter() - start)


def _engine(engine: str) -> None:
    """Choose Keras's engine, and import it."""
    import densespec

    densespec.get_backend(engine).data_format(None)


def model_of(engine: str, name: str, variant: str) -> Any:
    import densespec

    _engine(engine)
    from peers import keras_applications

    if name == APPLICATIONS:
        return keras_applications(variant)
    return densespec.build(variant, backend=engine, mode=name, input_shape=(SIZE, SIZE, 3))


def compiled(model: Any) -> Any:
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, 0.9, nesterov=True), loss)
    return model


def batch_of(count: int) -> tuple[Any, Any]:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((count, SIZE, SIZE, 3)).astype(np.float32)
    return x, draw.integers(0, 10, count)


def _native(variant: str, x: Any) -> Callable[[], object]:
    import torch

    import densespec

    model = densespec.build(variant, backend="torch.nn", mode="inference")
    first = torch.from_numpy(x).movedim(-1, 1)
    return torch.inference_mode()(lambda: model(first))


def _predicting(model: Any, x: Any) -> Callable[[], object]:
    return lambda: model.predict_on_batch(x)


def _training(model: Any, x: Any, labels: Any) -> Callable[[], object]:
    return lambda: model.train_on_batch(x, labels)
