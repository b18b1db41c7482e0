"""Figures of ``flax.nnx`` against a network written by hand, and against Keras on JAX."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import engines
import jax
import optax
from flax import nnx
from plain_flax import plain
from timing import GIVES_BACK, Figures, in_turn, peak_megabytes, take_turns

PLAIN = "plain nnx"
KERAS = "Keras on jax, "
"""What is before the mode in the names of Keras's sides."""


def inference(variant: str, batch: int, rounds: int) -> Figures:
    """Milliseconds of inference, compiled."""
    x, _ = engines.batch_of(batch)
    sides = {name: _predicting(name, variant, x) for name in (PLAIN, "layers", "inference")}
    keras = engines.model_of("jax", "inference", variant)
    return take_turns(sides | {f"{KERAS}inference": lambda: keras.predict_on_batch(x)}, rounds)


def training(variant: str, batch: int, rounds: int) -> Figures:
    """Milliseconds of a step of SGD with Nesterov momentum, compiled."""
    sides = {
        name: _training(name, variant, batch)
        for name in (PLAIN, "layers", "fast", "efficient", f"{KERAS}layers", f"{KERAS}fast")
    }
    return take_turns(sides, rounds, settle=1)


def training_memory(variant: str, batch: int, rounds: int) -> Figures:
    """MB that a second step needs, of a fresh process each."""
    arguments = {"variant": variant, "batch": batch}
    names = (PLAIN, "layers", "efficient")
    sides = {name: ("jax_native:step_memory", {**arguments, "name": name}) for name in names}
    return in_turn(sides, rounds, GIVES_BACK)


def step_memory(variant: str, batch: int, name: str) -> float:
    step = _training(name, variant, batch)
    return peak_megabytes(step, first=step)


def first_step(variant: str, batch: int, rounds: int) -> Figures:
    """Milliseconds of the first training step in a fresh process: tracing, compiling, running."""
    arguments = {"variant": variant, "batch": batch}
    names = (PLAIN, "layers", "fast")
    return in_turn(
        {name: ("jax_native:first_step_time", {**arguments, "name": name}) for name in names},
        rounds,
    )


def first_step_time(variant: str, batch: int, name: str) -> float:
    step = _training(name, variant, batch)
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def _model(name: str, variant: str) -> Any:
    import densespec

    return (
        plain(variant) if name == PLAIN else densespec.build(variant, backend="flax.nnx", mode=name)
    )


def _predicting(name: str, variant: str, x: Any) -> Callable[[], object]:
    model = _model(name, variant)
    model.eval()
    graphdef, state = nnx.split(model)
    call = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    return lambda: call(state, x).block_until_ready()


def _training(name: str, variant: str, batch: int) -> Callable[[], object]:
    x, labels = engines.batch_of(batch)
    if name.startswith(KERAS):
        keras = engines.compiled(engines.model_of("jax", name.removeprefix(KERAS), variant))
        return lambda: keras.train_on_batch(x, labels)
    model = _model(name, variant)
    optimizer = nnx.Optimizer(model, optax.sgd(1e-3, 0.9, nesterov=True), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any, labels: Any) -> Any:
        def loss_of(model: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    taken = nnx.cached_partial(step, model, optimizer)
    return lambda: taken(x, labels).block_until_ready()
