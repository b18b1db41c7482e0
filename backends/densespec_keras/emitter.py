"""Builds graphs as functional Keras models, from standard layers wherever those suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec.weights.layouts.densespec_keras import layer_name
from densespec_keras.axes import TO_CHANNELS_FIRST, TO_CHANNELS_LAST
from densespec_keras.layers import (
    BatchNormalization,
    BiasedSynchronised,
    BlurPooling,
    Dropout,
    Gelu,
    GlobalPooling,
    LeakyReLU,
    PRelu,
    TanhGelu,
)
from densespec_keras.recursion import deep_enough_for
from densespec_keras.variables import initializers

Apply = Callable[[Any], Any]


class Emitter:
    """Turns the nodes of a graph into layers of a functional model.

    Args:
        data_format: The layout of the model's input, and of feature maps that it gives.
        inner_format: The layout of the layers. TensorFlow has no channels_first convolution on
            CPUs: there, the input is permuted once and everything runs channels_last.
        dtype: The dtype of the layers: a name, a policy, or None for Keras's global policy.
        policies: The dtypes of layers, by name, that have others.
        weights: The canonical arrays that new layers start with.
        layers: Existing layers, used again where their names fit, weights and all.
        synchronised: Whether norms take their statistics over all replicas of TensorFlow's
            distribution strategy.
        kind: The class of the model: ``keras.Model``, or one that computes the same otherwise.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        data_format: str,
        inner_format: str,
        dtype: Any,
        policies: Mapping[str, Any] | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
        layers: Iterable[Any] = (),
        synchronised: bool = False,
        kind: Any = keras.Model,
    ) -> None:
        self.graph, self.dtype = graph, dtype
        self._policies = policies or {}
        self._weights, self._kind = weights or {}, kind
        self._synchronised = synchronised
        self.data_format, self.inner_format = data_format, inner_format
        self._dims = graph.spatial_dims
        self._layers = {layer.name: layer for layer in layers}
        self._frozen = {layer_name(node.name) for node in graph.nodes if node.frozen}

    def model(self, name: str) -> Any:
        """Make the functional model of the graph."""
        x = self._entry()
        return self._of(x, self._run(x, {}), name=name)

    def masked_model(self) -> Any:
        """Make a model with one more input for each dropout: a factor in the place of its own."""
        x = self._entry()
        scales = {
            node.name: self._input(f"{layer_name(node.name)}_scale", node.shape, self.inner_format)
            for node in self.graph.dropouts
        }
        return self._of([x, *scales.values()], self._run(x, scales))

    def _of(self, inputs: Any, outputs: Any, **options: Any) -> Any:
        with deep_enough_for(self.graph):
            model = self._kind(inputs, outputs, **options)
        if self._kind is not keras.Model:
            model.follow(self.graph)
        return model

    def _entry(self) -> Any:
        node = self.graph.input
        return self._input(layer_name(node.name), node.shape, self.data_format)

    def _input(self, name: str, shape: ops.Shape, data_format: str) -> Any:
        channels, *sizes = shape
        ordered = (channels, *sizes) if data_format == "channels_first" else (*sizes, channels)
        dtype = keras.dtype_policies.get(self.dtype).compute_dtype if self.dtype else None
        return keras.Input(ordered, name=name, dtype=dtype)

    def _run(self, x: Any, scales: dict[str, Any]) -> Any:
        dims = self._dims
        permuted = self.data_format != self.inner_format
        if permuted and dims:
            x = self._layer(keras.layers.Permute, TO_CHANNELS_LAST, (*range(2, dims + 2), 1))(x)
        values = {self.graph.input.name: x}
        for node in self.graph.nodes[1:]:
            inputs = [values[source] for source in node.inputs]
            if node.name in scales:
                multiply = keras.layers.Multiply(dtype=self.dtype)
                values[node.name] = multiply([*inputs, scales[node.name]])
            else:
                apply = self._emit(node)
                values[node.name] = apply(inputs[0] if len(inputs) == 1 else inputs)
        given = tuple(self._outer(node, values[node.name]) for node in self.graph.given)
        return given if self.graph.outputs else given[0]

    def _outer(self, node: Node, y: Any) -> Any:
        """Lay out a value as the model gives it."""
        if self.data_format == self.inner_format or len(node.shape) == 1:
            return y
        order = (self._dims + 1, *range(1, self._dims + 1))
        return self._layer(keras.layers.Permute, TO_CHANNELS_FIRST, order)(y)

    def _layer(self, kind: Any, name: str, *args: Any, **config: Any) -> Any:
        if name not in self._layers:
            config["trainable"] = name not in self._frozen
            dtype = self._policies.get(name, self.dtype)
            self._layers[name] = kind(*args, name=name, dtype=dtype, **config)
        return self._layers[name]

    def _sliding(self, kind: str, name: str, *args: Any, **config: Any) -> Any:
        """Make a layer that comes in one class per number of dimensions."""
        dimensional = getattr(keras.layers, f"{kind}{self._dims}D")
        return self._layer(dimensional, name, *args, data_format=self.inner_format, **config)

    def _emit(self, node: Node) -> Apply:
        layers, name = keras.layers, layer_name(node.name)
        axis = 1 if self.inner_format == "channels_first" else -1
        match node.op:
            case ops.Conv() as op:
                return self._conv(name, op, self._initial(node))
            case ops.BatchNorm() as op:
                biased = BiasedSynchronised if self._synchronised else layers.BatchNormalization
                return self._layer(
                    BatchNormalization if op.unbiased else biased,
                    name,
                    axis=axis,
                    epsilon=op.epsilon,
                    momentum=1 - op.momentum,
                    center=op.affine,
                    scale=op.affine,
                    **self._initial(node),
                    **({"synchronized": True} if self._synchronised else {}),
                )
            case ops.GroupNorm() as op:
                return self._layer(
                    layers.GroupNormalization,
                    name,
                    op.groups,
                    axis=axis,
                    epsilon=op.epsilon,
                    center=op.affine,
                    scale=op.affine,
                    **self._initial(node),
                )
            case ops.Relu():
                return self._layer(layers.ReLU, name)
            case ops.Activation() as op:
                return self._activation(name, op)
            case ops.PRelu():
                return self._layer(PRelu, name, **self._initial(node))
            case ops.Dropout() as op:
                return self._layer(Dropout, name, op.rate)
            case ops.Concat():
                return self._layer(layers.Concatenate, name, axis=axis)
            case ops.MaxPool() as op:
                return self._max_pool(name, op)
            case ops.AvgPool() as op:
                return self._sliding("AveragePooling", name, op.window, op.stride)
            case ops.BlurPool() as op:
                return self._layer(BlurPooling, name, op.window, op.stride, self.inner_format)
            case ops.GlobalPool() as op:
                return self._global_pool(name, op)
            case ops.Dense() as op:
                initial = self._initial(node)
                return self._layer(layers.Dense, name, op.units, use_bias=op.bias, **initial)
            case ops.Softmax():
                return self._layer(layers.Softmax, name)
            case ops.Sigmoid():
                return self._layer(layers.Activation, name, "sigmoid")
        raise TypeError(f"Keras has no layer for {node.op!r}")

    def _activation(self, name: str, op: ops.Activation) -> Apply:
        if op.kind == "leaky-relu":
            kind = LeakyReLU if self._is_wide_tensorflow() else keras.layers.LeakyReLU
            return self._layer(kind, name, op.slope)
        if op.kind == "gelu" and self._is_wide_tensorflow():
            return self._layer(Gelu, name)
        if op.kind == "gelu-tanh":
            return self._layer(TanhGelu, name)
        return self._layer(keras.layers.Activation, name, op.kind)

    def _is_wide_tensorflow(self) -> bool:
        wide = keras.dtype_policies.get(self.dtype or "float32").compute_dtype == "float64"
        return wide and keras.config.backend() == "tensorflow"

    def _initial(self, node: Node) -> dict[str, Any]:
        return {} if layer_name(node.name) in self._layers else initializers(node, self._weights)

    def _conv(self, name: str, op: ops.Conv, initial: Mapping[str, Any]) -> Apply:
        padding = keras_padding(op)
        conv = self._sliding(
            "Conv",
            name,
            op.filters,
            op.window,
            strides=op.stride,
            padding=padding or "valid",
            use_bias=op.bias,
            **initial,
        )
        if padding is not None:
            return _callable(conv)
        pads = op.padding if self._dims > 1 else op.padding[0]
        pad = self._sliding("ZeroPadding", f"{name}_pad", pads)
        return lambda x: conv(pad(x))

    def _global_pool(self, name: str, op: ops.GlobalPool) -> Apply:
        standard = {"avg": "GlobalAveragePooling", "max": "GlobalMaxPooling"}
        if op.kind in standard:
            return _callable(self._sliding(standard[op.kind], name))
        return _callable(self._layer(GlobalPooling, name, op.kind, self.inner_format))

    def _max_pool(self, name: str, op: ops.MaxPool) -> Apply:
        padding = keras_padding(op)
        pool = self._sliding("MaxPooling", name, op.window, op.stride, padding=padding or "valid")
        if padding is not None:
            return _callable(pool)
        assert op.padding != "same"
        # Zero would win over the negative numbers that a pre-activation stem gives the pool.
        outside = [(0, 0), *op.padding]
        outside.insert(1 if self.inner_format == "channels_first" else len(outside), (0, 0))
        return lambda x: pool(keras.ops.pad(x, outside, constant_values=-float("inf")))


def kind_of(model: Any) -> Any:
    """Return the class that makes another model of the same kind; see :class:`Emitter`."""
    return type(model) if "densespec" in type(model).__module__ else keras.Model


def keras_padding(op: ops.Conv | ops.MaxPool) -> str | None:
    """Return Keras's name for an op's padding; None if the padding needs a layer of its own."""
    if op.padding == "same" or (
        op.stride == 1 and op.padding == tuple(((n - 1) // 2, n // 2) for n in op.window)
    ):
        return "same"
    return None if any(map(any, op.padding)) else "valid"


def _callable(layer: Any) -> Apply:
    return lambda x: layer(x)
