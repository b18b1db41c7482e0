"""One backend's process: the only place of the suite in which a framework is imported."""

from __future__ import annotations

import os
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from densespec_conformance.requests import (
    Answer,
    Forward,
    Inspect,
    Inspected,
    Network,
    ReadWeights,
    Request,
    Step,
    Train,
)

# Read by frameworks when they are imported: less chatter, and float64 where it is asked for.
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "JAX_ENABLE_X64": "1",
}


def serve(backend: str, pipe: Connection, log: str, threads: int) -> None:
    """Answer requests until the other side hangs up. What the framework prints goes to ``log``."""
    _redirect_output(log)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            answer: Any = ("answer", handle(backend, request))
        except MemoryError:
            answer = ("error", "out of memory")
        except Exception as error:
            traceback.print_exc()
            answer = ("error", f"{type(error).__name__}: {error}")
        pipe.send(answer)


def _redirect_output(log: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(handle, stream.fileno())
    os.close(handle)


def handle(backend: str, request: Request) -> Answer:
    """Do what is asked, in this process."""
    from densespec.backends import get_backend

    engine = get_backend(backend)
    model = _build(backend, request.network)
    graph = model.densespec.graph
    match request:
        case Inspect():
            trainable, non_trainable = engine.count_parameters(model)
            return Inspected(trainable, non_trainable, _shapes(engine, model, graph, request))
        case Forward():
            return engine.forward(model, graph, request.x, request.taps)
        case ReadWeights():
            return engine.read_weights(model, graph)
        case Train():
            return _train(engine, model, graph, request)


def _build(backend: str, network: Network) -> Any:
    import densespec
    from densespec.backends import get_backend

    engine = get_backend(backend)
    shape = None
    if network.input_size is not None:
        channels, size = network.spec.in_channels, network.input_size
        channels_first = engine.data_format(None) == "channels_first"
        shape = (channels, *size) if channels_first else (*size, channels)
    options: dict[str, Any] = dict(network.options)
    return densespec.build(
        network.spec,
        backend=backend,
        input_shape=shape,
        dtype=network.dtype,
        weights=network.weights,
        seed=network.seed,
        **options,
    )


def _shapes(engine: Any, model: Any, graph: Any, request: Inspect) -> dict[str, tuple[int, ...]]:
    import numpy as np

    last = {node.stage: node.name for node in graph.nodes[1:]}
    x = np.zeros((1, request.network.spec.in_channels, *request.sample_size))
    values = engine.forward(model, graph, x, tuple(last.values()))
    return {name: tuple(value.shape[1:]) for name, value in values.items()}


def _train(engine: Any, model: Any, graph: Any, request: Train) -> list[Step]:
    trainer = engine.trainer(model, graph, request.recipe)
    steps = []
    for batch in request.batches:
        result = trainer.step(
            batch.x, batch.labels, learning_rate=batch.learning_rate, masks=dict(batch.masks)
        )
        weights = engine.read_weights(model, graph)
        steps.append(Step(result.loss, result.gradients, trainer.velocity(), weights))
    return steps
