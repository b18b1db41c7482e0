"""One target's process: the only place of the suite in which a framework is imported."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densespec_conformance.answering import environment
from densespec_conformance.asking.requests import (
    About,
    Answer,
    Description,
    Forward,
    Inspect,
    Inspected,
    Network,
    ReadWeights,
    Request,
    Step,
    Train,
)
from densespec_conformance.asking.subject import Subject, SubjectError

if TYPE_CHECKING:
    from densespec.network.arrays import Arrays
    from densespec.network.graph import Graph


def serve(subject: Subject, pipe: Connection, log: str, threads: int) -> None:
    """Answer requests until the other side hangs up. What the framework prints goes to ``log``.

    An answer is its kind, which is ``answer`` or the status to report, and itself or the reason.
    """
    _lead_a_group()
    _redirect_output(log)
    environment.prepare(threads)
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        pipe.send(_answer(subject, request))


def _answer(subject: Subject, request: Request) -> tuple[str, Any]:
    from densespec_conformance.asking.requests import Unsupported

    try:
        return "answer", handle(subject, request)
    except Unsupported as refusal:
        return "unsupported", str(refusal)
    except Exception as error:
        traceback.print_exc()
        kind = "out of memory" if environment.is_out_of_memory(error) else "error"
        return kind, f"{type(error).__name__}: {error}"


def _lead_a_group() -> None:
    """Make this process's children end with it, and it with its parent, whatever happens."""
    if not hasattr(os, "setpgid"):
        return
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(os.getpgid(0), signal.SIGKILL)


def _redirect_output(log: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(handle, stream.fileno())
    os.close(handle)


def handle(target: str | Subject, request: Request) -> Answer:
    """Do what is asked, in this process.

    Args:
        target: a subject, or a backend by name.

    Raises:
        Unsupported: the target can't be asked that.
    """
    subject = Subject(target) if isinstance(target, str) else target
    engine = _backend(subject)
    if isinstance(request, About):
        return _describe(engine, request.network)
    if isinstance(request, Train) and request.replicas > 1:
        return _train_on_several_devices(engine, request)
    model, graph = _build(engine, subject, request.network)
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


@functools.cache
def _backend(subject: Subject) -> Any:
    from densespec.backends import get_backend
    from densespec_conformance.adapters import backend_for

    if ":" in subject.name and subject.spec is not None:
        return backend_for(subject.name, subject.spec, subject.weights)
    found = get_backend(subject.name)
    if not hasattr(found, "build"):
        raise SubjectError(
            f"{subject.name} is of type {type(found).__name__}, and no backend: if it makes a "
            "network, say which one this should be, with --spec"
        )
    return found


def _describe(engine: Any, network: Network) -> Description:
    from densespec_conformance.adapters import ConstructorBackend

    options: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if isinstance(engine, ConstructorBackend):
        options, notes = engine.describe(network.input_size, network.dtype)
    else:
        engine.data_format(None)  # imports the framework
    environment.settle()
    return Description(
        versions=environment.versions(),
        device=environment.device(),
        threads=environment.threads(),
        tensor_float_32=environment.allows_tf32(),
        options=options,
        notes=notes,
    )


def _build(engine: Any, subject: Subject, network: Network) -> tuple[Any, Any]:
    """The network in the target's framework, and its graph."""
    from densespec_conformance.adapters import ConstructorBackend

    data_format = engine.data_format(None)
    environment.settle()
    if isinstance(engine, ConstructorBackend):
        return engine.construct(network)
    import densespec

    shape = None
    if network.input_size is not None:
        channels, size = network.spec.in_channels, network.input_size
        shape = (channels, *size) if data_format == "channels_first" else (*size, channels)
    options: dict[str, Any] = dict(network.options)
    try:
        model = densespec.build(
            network.spec,
            backend=subject.name,
            input_shape=shape,
            dtype=network.dtype,
            weights=subject.weights if network.weights is None else network.weights,
            seed=network.seed,
            **options,
        )
    except ValueError as error:
        raise _refusal(network.dtype, error) from error
    return model, model.densespec.graph


def _refusal(dtype: str, error: ValueError) -> Exception:
    """A backend that raises ValueError about the dtype says that it has none of that kind."""
    from densespec_conformance.asking.requests import Unsupported

    return Unsupported(str(error)) if "dtype" in str(error) and dtype in str(error) else error


def _shapes(engine: Any, model: Any, graph: Any, request: Inspect) -> dict[str, tuple[int, ...]]:
    import numpy as np

    last = {node.stage: node.name for node in graph.nodes[1:]}
    if hasattr(engine, "shapes") and request.network.input_size is not None:
        return dict(engine.shapes(model, graph, tuple(last.values())))
    x = np.zeros((1, request.network.spec.in_channels, *request.sample_size))
    values = engine.forward(model, graph, x, tuple(last.values()))
    return {name: tuple(value.shape[1:]) for name, value in values.items()}


def _train(engine: Any, model: Any, graph: Any, request: Train) -> list[Step]:
    from densespec.errors import Untrainable
    from densespec_conformance.asking.requests import Unsupported

    try:
        trainer = engine.trainer(model, graph, request.recipe)
    except Untrainable as refusal:
        raise Unsupported(str(refusal)) from refusal
    return _steps(trainer, lambda: engine.read_weights(model, graph), request)


def _train_on_several_devices(engine: Any, request: Train) -> list[Step]:
    from densespec.backends import ParallelBackend
    from densespec_conformance.asking.requests import Unsupported

    if not isinstance(engine, ParallelBackend):
        raise Unsupported("this backend trains on one device: it has no parallel_trainer")
    network = request.network
    graph = graph_of(network)
    assert network.weights is not None, "the question is of given weights"
    try:
        trainer = engine.parallel_trainer(
            graph,
            network.weights,
            request.recipe,
            replicas=request.replicas,
            dtype=network.dtype,
        )
    except ValueError as error:
        raise Unsupported(str(error)) from error
    with contextlib.closing(trainer):
        return _steps(trainer, trainer.weights, request)


def graph_of(network: Network) -> Graph:
    """The graph of a network, frozen where its options say so."""
    from densespec.network.graph import freeze, lower

    options: dict[str, Any] = dict(network.options)
    part = options.pop("trainable_from", None)
    graph = lower(network.spec, network.input_size, **options)
    return graph if part is None else freeze(graph, part)


def _steps(trainer: Any, weights: Callable[[], Arrays], request: Train) -> list[Step]:
    if request.velocity is not None:
        trainer.restore(request.velocity)
    steps = []
    for batch in request.batches:
        result = trainer.step(
            batch.x, batch.labels, learning_rate=batch.learning_rate, masks=dict(batch.masks)
        )
        steps.append(Step(result.loss, result.gradients, trainer.velocity(), weights()))
    return steps
