"""Defines ``build``, and reads weights from and loads weights into built models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from densespec.backends import (
    DataFormat,
    InspectableBackend,
    get_backend,
    graph_now,
    recognised,
    with_mode,
)
from densespec.backends import Origin as Origin
from densespec.errors import DensespecError, SpecError
from densespec.network.arrays import Arrays, check_weights
from densespec.network.catalogue import SpecLike, resolve
from densespec.network.graph import FeatureMap, Graph, Pooling, freeze, lower
from densespec.network.initial import initial_weights
from densespec.network.spec import DenseNetSpec
from densespec.pretrained.accompaniment import Accompaniment
from densespec.pretrained.preprocessing import Preprocessing
from densespec.weights.checkpoint import TrainingState, write_checkpoint
from densespec.weights.given import (
    GivenWeights,
    WeightsLike,
    accompaniment_of,
    fitted,
    has_head_of,
    opened,
    stated_spec,
)
from densespec.weights.opening import IdentifiedWeights
from densespec.weights.reading import ReadingOptions, takes_reading_options

LOGITS = "linear"
"""Keras's name for the activation that changes nothing."""


@takes_reading_options
def build(
    spec: SpecLike | None = None,
    *,
    backend: str,
    include_top: bool = True,
    weights: WeightsLike | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Pooling | None = None,
    classes: int | None = None,
    classifier_activation: str | None = None,
    outputs: Sequence[str] = (),
    seed: int = 0,
    dtype: str | None = None,
    data_format: DataFormat | None = None,
    name: str | None = None,
    trainable_from: str | None = None,
    mode: str | None = None,
    **reading: Any,
) -> Any:
    """Build a network in a framework.

    Args:
        spec: A variant's name, a :class:`DenseNetSpec`, or the path of a TOML or JSON spec file;
            None takes the weight file's.
        backend: A name that :func:`densespec.backends` lists. Of densespec's own, ``"torch"``,
            ``"tensorflow"`` and ``"jax"`` give a ``keras.Model`` on that engine, ``"torch.nn"`` a
            ``torch.nn.Module``, ``"flax.nnx"`` an ``nnx.Module``, and ``"numpy"`` the reference.
        include_top: Whether the network ends in its classifier.
        weights: A weight file of any layout, such as torchvision's; the name of trained weights,
            such as ``"imagenet"``, which are fetched if they are not here; arrays by canonical
            name, or by the names of any program, such as a ``state_dict``; or a model of any
            framework. None draws initial weights from ``seed``, the same on every backend.
        input_shape: The shape of one sample, channels included, in the model's layout; None, or a
            None in it, stands for any size. Its channels are another way to say ``in_channels``.
        pooling: The global pool of a network without a classifier: ``"avg"``, ``"max"``,
            ``"avgmax"`` (half their sum) or ``"catavgmax"`` (all means, then all maxima).
        classes: The number of classes; it replaces the spec's. Weights of a network with another
            head then give everything before it, and the head starts anew from ``seed``.
        classifier_activation: ``"softmax"`` or ``"sigmoid"`` for probabilities, ``"linear"`` for
            logits; None takes what a weight file states of its head, or else logits.
        outputs: The parts whose values the model gives, as a tuple in this order, such as
            ``("stem", "block1", "block2", "block3", "final")``: the maps that detectors and U-Nets
            read. Parts behind the last of them are left out. Without outputs and without a spec,
            the model gives the outputs that a weight file states. :func:`densespec.feature_maps`
            tells their channels and strides.
        seed: The seed of initial weights.
        dtype: A dtype's name, such as ``"float32"``; None takes the framework's default (numpy's
            is float64).
        data_format: The layout of the input; None takes the framework's default (PyTorch's and
            numpy's is channels_first, Flax's channels_last, Keras's is its configured
            ``image_data_format``).
        name: The model's name, if the framework names models; None takes the variant's.
        trainable_from: The first part that trains, such as ``"classifier"`` or ``"block4"``:
            everything before it is frozen, including its running statistics and dropout.
        mode: The way the network runs; it computes the same in every mode: ``"layers"``, with one
            standard layer for each op; ``"fast"``, ``"efficient"`` (in little memory) or
            ``"inference"``. None takes the mode behind the backend's name, as in
            ``"torch.nn+fast"``, or else ``"layers"``.
        {reading}

    Returns:
        The framework's model. It takes (batch, channels, *spatial) or (batch, *spatial, channels),
        as its layout says. It gives logits or probabilities (batch, classes); without a classifier,
        pooled features (batch, channels), or without a pool the last feature map in the same
        layout; or the tuple of its ``outputs``.

    Raises:
        UnknownName: There is no such variant, backend, mode, part or output.
        SpecError: A spec or an input shape breaks a constraint.
        PackageMissing: The framework is not installed; the message says what to install.
        EngineConflict: Keras already runs on another engine in this process.
        WeightsError: The weights do not fit.

    Warns:
        WeightsWarning: Something is assumed that the weights do not state.
    """
    backend = with_mode(backend, mode)
    engine = get_backend(backend)
    data_format = engine.data_format(data_format)
    channels, size = _split_shape(input_shape, data_format)
    options = _with_channels(ReadingOptions(**reading), channels)
    network = None if spec is None else resolve(spec)
    with opened(weights, network, options) as given:
        graph = _lowered(
            _adapted(network or stated_spec(given), classes, options),
            size,
            given,
            include_top=include_top,
            pooling=pooling,
            activation=classifier_activation,
            outputs=outputs or (_stated_outputs(given) if spec is None else ()),
        )
        if trainable_from is not None:
            graph = freeze(graph, trainable_from)
        new_head = None if classes is None else seed
        arrays = (
            initial_weights(graph, seed)
            if given is None
            else fitted(graph, given, new_head=new_head)
        )
        kept = goes_with(weights, given).fitted_to(graph)
    origin = Origin(backend, graph, dtype, data_format, name or _label(spec), kept)
    return build_graph(origin, arrays)


def build_graph(origin: Origin, arrays: Mapping[str, np.ndarray]) -> Any:
    """Build a model of a graph with arrays that are known to fit it."""
    model = get_backend(origin.backend).build(
        origin.graph,
        arrays,
        dtype=origin.dtype,
        data_format=origin.data_format,
        name=origin.name,
    )
    model.densespec = origin
    return model


def goes_with(weights: WeightsLike | None, given: GivenWeights) -> Accompaniment:
    """Say what goes with weights, which may be those of a model that was built here.

    Args:
        weights: What a user gave.
        given: The same after it was opened.
    """
    origin = getattr(weights, "densespec", None)
    return origin.accompaniment if isinstance(origin, Origin) else accompaniment_of(given)


def accompanied(model: Any, accompaniment: Accompaniment) -> Any:
    """Give a built model what goes with its weights, as far as it concerns such a network."""
    origin = origin_of(model)
    kept = accompaniment.fitted_to(origin.graph)
    model.densespec = replace(model.densespec, accompaniment=kept)
    return model


def preprocessing(model: Any) -> Preprocessing:
    """Say what images need before a built model; the result is called with an image.

    Raises:
        DensespecError: densespec did not build the model, or its weights do not say it.
    """
    found = origin_of(model).accompaniment.preprocessing
    if found is None:
        raise DensespecError(
            "nothing says what images need before this network: its weights are neither trained "
            "ones by name nor of a file that tells it; make a densespec.Preprocessing"
        )
    return found


def in_mode(model: Any, mode: str) -> Any:
    """Build the same network with the same weights in another mode; see :func:`build`.

    Types, devices, what trains and whether it is in training mode stay as they are.

    Raises:
        DensespecError: densespec did not build the model.
        ModelChanged: The model was changed into something that no spec says.
        WeightsError: An array was taken away, or replaced by one of another shape.
        UnknownName: The model's backend has no such mode.
    """
    origin = origin_of(model)
    return rebuilt(model, replace(origin, backend=with_mode(origin.backend, mode)))


def rebuilt(model: Any, origin: Origin, *, trainable: bool = True) -> Any:
    """Build a model again with its weights and its state.

    Args:
        origin: The origin of the new model, with the network as the model has it now.
        trainable: Whether trainable arrays stay trainable; if not, the graph of ``origin`` decides.
    """
    backend = get_backend(origin.backend)
    arrays = backend.read_weights(model, origin.graph)
    check_weights(origin.graph, arrays)
    if not isinstance(backend, InspectableBackend):
        return build_graph(origin, arrays)
    new = backend.rebuild(model, origin, arrays, trainable=trainable)
    new.densespec = origin
    return new


def optimize(model: Any) -> Any:
    """Build the same network, prepared for inference: ``in_mode(model, "inference")``.

    It takes and gives the same weights as the model does, and ``in_mode(optimized, "layers")``
    turns it back, bit for bit.
    """
    return in_mode(model, "inference")


def origin_of(model: Any) -> Origin:
    """Say what a model could be built from as it is now.

    Raises:
        DensespecError: densespec did not build it, and its backend can't tell what it is.
        ModelChanged: It was changed into something that no spec says; the message names the part.
    """
    origin = getattr(model, "densespec", None)
    if isinstance(origin, Origin):
        graph = graph_now(origin.backend, model, origin.graph)
        return replace(origin, graph=graph, accompaniment=origin.accompaniment.fitted_to(graph))
    if found := recognised(model):
        return found
    raise DensespecError(
        f"this {type(model).__name__} was not built by densespec.build in this process, "
        "or has lost its attribute 'densespec'"
    )


def feature_maps(model: Any) -> tuple[FeatureMap, ...]:
    """Say what a built model gives: the name, the channels and the stride of each value, in order.

    Raises:
        DensespecError: densespec did not build the model.
        ModelChanged: It was changed into something that no spec says; the message names the part.
    """
    return origin_of(model).graph.feature_maps


def read_weights(model: Any) -> Arrays:
    """Read every array of a built model as numpy, by canonical name and in canonical shape.

    Raises:
        DensespecError: densespec did not build the model.
        ModelChanged: It was changed into something that no spec says; the message names the part.
        WeightsError: An array was taken away, or replaced by one of another shape.
    """
    origin = origin_of(model)
    arrays = get_backend(origin.backend).read_weights(model, origin.graph)
    check_weights(origin.graph, arrays)
    return arrays


def save(
    model: Any, path: str | os.PathLike[str], *, training: TrainingState | None = None
) -> None:
    """Write a built model's weights as a canonical checkpoint (``.safetensors``), atomically.

    Args:
        training: The state of its training run, which is kept beside the weights.

    Raises:
        DensespecError: densespec did not build the model.
        ModelChanged: It was changed into something that no spec says; the message names the part.
        WeightsError: The path has another suffix, or an array was taken away or replaced by one of
            another shape.
    """
    origin, arrays = origin_of(model), read_weights(model)
    write_checkpoint(path, origin.graph, arrays, training, accompaniment=origin.accompaniment)


@takes_reading_options
def load_weights(model: Any, weights: WeightsLike, **reading: Any) -> None:
    """Load a weight file of any layout, arrays, or those of another model into a built model.

    Args:
        weights: As for :func:`build`.
        {reading}

    Raises:
        DensespecError: densespec did not build the model.
        WeightsError: They do not fit; the model is unchanged then.
    """
    origin = origin_of(model)
    with opened(weights, origin.graph.spec, ReadingOptions(**reading)) as given:
        arrays, kept = fitted(origin.graph, given), goes_with(weights, given)
    get_backend(origin.backend).write_weights(model, origin.graph, arrays)
    accompanied(model, kept)


def _lowered(
    spec: DenseNetSpec,
    size: Sequence[int | None] | None,
    given: GivenWeights,
    *,
    activation: str | None,
    **ends: Any,
) -> Graph:
    """Lower a spec to a network that ends as it was asked for, or else as its weights state."""
    graph = lower(
        spec, size, classifier_activation=None if activation == LOGITS else activation, **ends
    )
    stated = given.graph.classifier_activation if isinstance(given, IdentifiedWeights) else None
    if activation or not stated or not graph.has_classifier or not has_head_of(graph, given):
        return graph
    return lower(spec, size, classifier_activation=stated, **ends)


def _stated_outputs(given: GivenWeights) -> tuple[str, ...]:
    return given.graph.outputs if isinstance(given, IdentifiedWeights) else ()


def _split_shape(
    shape: Sequence[int | None] | None, data_format: DataFormat
) -> tuple[int | None, tuple[int | None, ...] | None]:
    if shape is None:
        return None, None
    if not isinstance(shape, Sequence) or len(shape) < 2:
        raise SpecError("S24", "input_shape", shape, "one sample's channels and sizes")
    sizes = tuple(shape)
    if data_format == "channels_last":
        return sizes[-1], sizes[:-1]
    return sizes[0], sizes[1:]


def _with_channels(reading: ReadingOptions, channels: int | None) -> ReadingOptions:
    """Complete the options with the channels of an input's shape.

    Raises:
        SpecError: It has others than the options say.
    """
    if channels is None or reading.in_channels == channels:
        return reading
    if reading.in_channels is not None:
        raise SpecError("S5", "in_channels", reading.in_channels, f"{channels}, as in input_shape")
    return reading.replace(in_channels=channels)


def _label(spec: SpecLike | None) -> str:
    """Name a model that was given no name, by its variant or by its spec file."""
    return "densenet" if spec is None or isinstance(spec, DenseNetSpec) else Path(spec).stem


def _adapted(spec: DenseNetSpec, classes: int | None, reading: ReadingOptions) -> DenseNetSpec:
    changes = reading.of_network() | ({} if classes is None else {"classes": classes})
    return spec.replace(**changes) if changes else spec
