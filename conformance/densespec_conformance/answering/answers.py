"""Answers what a target is asked: its backend does what a request asks, in this process."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from densespec.backends import (
    Backend,
    DataFormat,
    ParallelBackend,
    ShapingBackend,
    Trainer,
    backends,
    get_backend,
    split_mode,
)
from densespec.building import Origin
from densespec.errors import Untrainable
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, freeze, lower
from densespec.network.initial import initial_weights
from densespec.network.ops import Shape
from densespec.recipes.moments import flat_moments
from densespec.weights.given import weights_for
from densespec_conformance.adapters import ConstructorBackend, ExportedFileBackend, backend_for
from densespec_conformance.answering import environment
from densespec_conformance.asking.exported import is_exported
from densespec_conformance.asking.requests import (
    About,
    Answer,
    Description,
    Forward,
    Inspect,
    Inspected,
    NetworkToBuild,
    ReadMoments,
    ReadWeights,
    Request,
    StepTrace,
    Train,
    Unsupported,
)
from densespec_conformance.asking.subject import Subject, SubjectError

OfOneNetwork = ConstructorBackend | ExportedFileBackend

NAME = "densenet"
"""Models have this name if they have names."""


def handle(target: str | Subject | Backend, request: Request) -> Answer:
    """Do what is asked, in this process.

    Args:
        target: A subject, a backend's name, or a backend itself.

    Raises:
        Unsupported: The target can't be asked that.
    """
    subject, backend = _resolved(target)
    if isinstance(request, About):
        return _describe(backend, request.network)
    if isinstance(request, Train) and request.replicas > 1:
        return _train_on_several_devices(backend, request)
    model, graph = _build(backend, subject, request.network)
    match request:
        case Inspect():
            trainable, non_trainable = backend.count_parameters(model)
            return Inspected(trainable, non_trainable, _shapes(backend, model, graph, request))
        case Forward():
            return backend.forward(model, graph, request.x, request.taps)
        case ReadWeights():
            return backend.read_weights(model, graph)
        case ReadMoments():
            return flat_moments(_trainer(backend, model, graph, request).moments())
        case Train():
            return _train(backend, model, graph, request)


def _resolved(target: str | Subject | Backend) -> tuple[Subject, Any]:
    match target:
        case str():
            return _resolved(Subject(target))
        case Subject():
            return target, backend_of(target)
    return Subject(type(target).__name__), target


@functools.cache
def backend_of(subject: Subject) -> Any:
    """Find the backend that a subject names, or make one of the constructor or file that it names.

    Raises:
        SubjectError: What it names is no backend, and there is no spec to hold it to.
    """
    if subject.spec and subject.weights and _is_file(subject.name):
        return ExportedFileBackend(subject.name, subject.spec, subject.weights)
    if ":" in subject.name and subject.spec is not None:
        return backend_for(subject.name, subject.spec, subject.weights)
    found = get_backend(subject.name)
    if not hasattr(found, "build"):
        raise SubjectError(
            f"{subject.name} is of type {type(found).__name__}, and no backend: if it makes a "
            "network, say which one this should be, with --spec"
        )
    return found


def _is_file(name: str) -> bool:
    return split_mode(name)[0] not in backends() and is_exported(name)


def _describe(backend: Any, network: NetworkToBuild) -> Description:
    said: Mapping[str, Any] = {}
    if isinstance(backend, OfOneNetwork):
        said = backend.describe(network.input_size, network.dtype)
    else:
        backend.data_format(None)  # imports the framework
    environment.settle()
    return Description(
        versions=environment.versions(),
        device=environment.device(),
        threads=environment.threads(),
        tensor_float_32=environment.allows_tf32(),
        **said,
    )


def _build(backend: Any, subject: Subject, network: NetworkToBuild) -> tuple[Any, Graph]:
    """Build the network in the target's framework, and give its graph too."""
    data_format: DataFormat = backend.data_format(None)
    environment.settle()
    if isinstance(backend, OfOneNetwork):
        return backend.construct(network)
    graph = graph_of(network)
    try:
        model = backend.build(
            graph,
            _arrays(graph, network, subject.weights),
            dtype=network.dtype,
            data_format=data_format,
            name=NAME,
        )
    except ValueError as error:
        raise _refusal(network.dtype, error) from error
    # As densespec.build does, so that a model which can't hold it is refused here.
    model.densespec = Origin(subject.name, graph, network.dtype, data_format, NAME)
    return model, graph


def graph_of(network: NetworkToBuild) -> Graph:
    """Lower a network to its graph, which is frozen where its options say so."""
    options: dict[str, Any] = dict(network.options)
    part = options.pop("trainable_from", None)
    graph = lower(network.spec, network.input_size, **options)
    return graph if part is None else freeze(graph, part)


def _arrays(graph: Graph, network: NetworkToBuild, file: str | None) -> Arrays:
    """Return the weights that are asked for, or those of the target's file, or initial ones."""
    weights = file if network.weights is None else network.weights
    return initial_weights(graph, network.seed) if weights is None else weights_for(graph, weights)


def _refusal(dtype: str, error: ValueError) -> Exception:
    """Tell a refusal from an error: a backend that raises ValueError about the dtype says that it
    has no such dtype."""
    return Unsupported(str(error)) if "dtype" in str(error) and dtype in str(error) else error


def _shapes(backend: Any, model: Any, graph: Graph, request: Inspect) -> dict[str, Shape]:
    names = tuple(stage.output.name for stage in graph.stages())
    if isinstance(backend, ShapingBackend) and request.network.input_size is not None:
        return dict(backend.shapes(model, graph, names))
    x = np.zeros((1, request.network.spec.in_channels, *request.sample_size))
    values = backend.forward(model, graph, x, names)
    return {name: tuple(value.shape[1:]) for name, value in values.items()}


def _train(backend: Any, model: Any, graph: Graph, request: Train) -> list[StepTrace]:
    trainer = _trainer(backend, model, graph, request)
    return _steps(trainer, lambda: backend.read_weights(model, graph), request)


def _trainer(backend: Any, model: Any, graph: Graph, request: Train | ReadMoments) -> Trainer:
    """Make a trainer that has taken up the moments which are given."""
    try:
        trainer: Trainer = backend.trainer(model, graph, request.recipe)
    except Untrainable as refusal:
        raise Unsupported(str(refusal)) from refusal
    if request.moments is not None:
        trainer.restore(request.moments, step=request.steps_before)
    return trainer


def _train_on_several_devices(backend: Any, request: Train) -> list[StepTrace]:
    if not isinstance(backend, ParallelBackend):
        raise Unsupported("this backend trains on one device: it has no parallel_trainer")
    network = request.network
    assert network.weights is not None, "the question is about given weights"
    try:
        trainer = backend.parallel_trainer(
            graph_of(network),
            network.weights,
            request.recipe,
            replicas=request.replicas,
            dtype=network.dtype,
        )
    except ValueError as error:
        raise Unsupported(str(error)) from error
    with contextlib.closing(trainer):
        if request.moments is not None:
            trainer.restore(request.moments, step=request.steps_before)
        return _steps(trainer, trainer.weights, request)


def _steps(trainer: Trainer, weights: Callable[[], Arrays], request: Train) -> list[StepTrace]:
    steps = []
    for batch in request.batches:
        result = trainer.step(
            batch.x, batch.labels, learning_rate=batch.learning_rate, masks=dict(batch.masks)
        )
        steps.append(StepTrace(result.loss, result.gradients, trainer.moments(), weights()))
    return steps
