"""Defines models that compute several ops at a time, as :mod:`densespec.network.steps` finds.

They are functional models of the same layers as in mode ``layers``. So they have the same weights
under the same names, the same files and the same ``trainable``. Only ``call`` does not go through
the layers one by one. As with any functional model, a value in between can be asked for, but then
the layers run one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras

from densespec.backends import LAYERS, with_mode
from densespec.errors import Untrainable
from densespec.network import ops
from densespec.network.graph import Graph, Node, without
from densespec.network.steps import Block, Convolution, NormRelu, Step, Unit, steps
from densespec.weights.layouts.densespec_keras import layer_name
from densespec_keras.axes import TO_CHANNELS_FIRST, TO_CHANNELS_LAST
from densespec_keras.inspecting import settings_of, stated_graph
from densespec_keras.kernels import FeatureMaps, NormOperands, UnitOperands, WholeNetwork, load
from densespec_keras.layers import move_statistics, require_several


class Planned(keras.Model):
    """This is a functional model of a graph that computes it step by step.

    Attributes:
        mode: The name of the mode.
        recompute: Whether activations are computed again in the backward pass.
        graph: The graph that is computed, if it is known.
        settings: The settings of the layers when they computed it, by their names.
        shown: The names of nodes whose values the model gives in place of its output, channels
            last, as far as steps give them; None for the output.
        whole: What computes the whole network at a time, if anything does.
    """

    mode = "fast"
    recompute = False
    graph: Graph | None = None
    settings: Mapping[str, Any]
    shown: Sequence[str] | None = None
    whole: WholeNetwork | None = None

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        layers = {layer.name: layer for layer in self.layers}
        if not self.is_fused():
            return super().call(inputs, training=training, mask=mask)
        given = zip(keras.tree.flatten(inputs), self.inputs, strict=True)
        tensors = [keras.ops.convert_to_tensor(x, dtype=entry.dtype) for x, entry in given]
        return _Evaluation(self, layers, bool(training)).outputs(*tensors)

    def is_fused(self) -> bool:
        """Say whether the engine's kernels compute what the layers do.

        Some models run layer by layer: mixed precision casts between layers, quantised arrays mean
        something else, synchronised norms meet other replicas, changed layers compute something
        else, and a file does not tell which of several outputs is which.
        """
        if self.graph is None and len(self.outputs) > 1:
            return False
        layers = self.layers
        policies = {
            id(policy): policy for policy in (part.dtype_policy for part in (self, *layers))
        }
        if not all(map(_is_plain, policies.values())):
            return False
        if any(vars(layer).get("synchronized") for layer in layers):
            return False
        self.planned()
        return all(settings_of(layer) == self.settings.get(layer.name) for layer in layers)

    def follow(self, graph: Graph, settings: Mapping[str, Any] | None = None) -> None:
        """Compute a graph.

        Args:
            settings: What the layers say as long as they compute it; None for what they say now.
        """
        now = {layer.name: settings_of(layer) for layer in self.layers}
        self.graph = graph
        self.settings = MappingProxyType(now | dict(settings or {}))  # which Keras does not track

    def planned(self) -> Graph:
        """Return what is computed: for a model from a file, what its layers state."""
        if self.graph is None:
            self.follow(stated_graph(self).graph)
        assert self.graph is not None
        return self.graph

    def showing(self, names: Sequence[str]) -> Planned:
        """Make a model of the same layers that shows the values of nodes; see ``shown``."""
        model = type(self)(self.inputs, self.outputs)
        model.follow(self.planned(), self.settings)
        model.whole, model.shown = self.whole, tuple(names)
        return model

    @functools.cached_property
    def steps(self) -> Callable[[frozenset[str], frozenset[str]], tuple[Step, ...]]:
        """Return a function that finds the steps of the model, and keeps them.

        Its arguments are the names of the dropouts that drop nothing, and of the norms that take
        the statistics of the batch.
        """
        graph = self.planned()

        def find(idle: frozenset[str], batch: frozenset[str]) -> tuple[Step, ...]:
            return steps(without(graph, idle), lambda norm: norm.name in batch)

        return functools.lru_cache(maxsize=8)(find)


def _is_plain(policy: Any) -> bool:
    """Say whether all that layers of a policy hold and compute is of one type."""
    one = policy.compute_dtype == policy.variable_dtype
    return one and policy.compute_dtype in ("float32", "float64") and not policy.quantization_mode


@keras.saving.register_keras_serializable(package="densespec")
class Fast(Planned):
    """This is a model in mode ``fast``."""


@keras.saving.register_keras_serializable(package="densespec")
class Efficient(Planned):
    """This is a model in mode ``efficient``."""

    mode = "efficient"
    recompute = True


@keras.saving.register_keras_serializable(package="densespec")
class Inference(Planned):
    """This is a model in mode ``inference``."""

    mode = "inference"

    @functools.cached_property
    def whole(self) -> WholeNetwork | None:  # type: ignore[override]
        """Return what the engine has for whole networks."""
        layers = {layer.name: layer for layer in self.layers}
        found: WholeNetwork | None = load(keras.config.backend()).whole(self.planned(), layers)
        return found

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if training:
            raise Untrainable(with_mode(keras.config.backend(), self.mode))
        return super().call(inputs, training=False, mask=mask)


KINDS: Mapping[str, Any] = {
    LAYERS: keras.Model,
    **{kind.mode: kind for kind in (Fast, Efficient, Inference)},
}


class _Evaluation:
    """Computes one call of a model."""

    def __init__(self, model: Any, layers: Mapping[str, Any], training: bool) -> None:
        self._model, self._graph = model, model.planned()
        self._layers, self._training = layers, training
        self._kernels = load(keras.config.backend())
        self._scales: dict[str, Any] = {}

    def outputs(self, x: Any, *scales: Any) -> Any:
        """Compute what the model gives for an input, and for factors of its dropouts if any."""
        if scales:
            names = [node.name for node in self._graph.dropouts]
            self._scales = dict(zip(names, scales, strict=True))
        if TO_CHANNELS_LAST in self._layers:
            x = self._layers[TO_CHANNELS_LAST](x)
        whole, shown = self._model.whole, self._model.shown
        y = None if whole is None or scales else whole(x, shown)
        if y is None:
            y = self._by_steps(x)
        if shown is not None:
            return y
        return tuple(map(self._outer, y)) if self._graph.outputs else self._outer(y)

    def _by_steps(self, x: Any) -> Any:
        values, features = {self._graph.input.name: x}, FeatureMaps(x)
        of_stages = {}
        for step in self._steps():
            features = self._do(step, features)
            values[step.output.name] = of_stages[step.output.stage] = features.x
        if self._model.shown is not None:
            return {name: values[name] for name in self._model.shown if name in values}
        if self._graph.outputs:
            return tuple(of_stages[name] for name in self._graph.outputs)
        return features.x

    def _outer(self, y: Any) -> Any:
        """Lay out a value as the model gives it."""
        permuted = TO_CHANNELS_FIRST in self._layers and len(y.shape) > 2
        return self._layers[TO_CHANNELS_FIRST](y) if permuted else y

    def _steps(self) -> tuple[Step, ...]:
        idle = (node.name for node in self._graph.nodes_of(ops.Dropout) if not self._drops(node))
        batch = (node.name for node in self._graph.nodes_of(ops.BatchNorm) if self._trains(node))
        found: tuple[Step, ...] = self._model.steps(frozenset(idle), frozenset(batch))
        return found

    def _layer(self, node: Node) -> Any:
        return self._layers[layer_name(node.name)]

    def _trains(self, node: Node) -> bool:
        return bool(self._training and self._layer(node).trainable)

    def _drops(self, node: Node) -> bool:
        return node.name in self._scales or (self._trains(node) and self._layer(node).rate > 0)

    def _do(self, step: Step, features: FeatureMaps) -> FeatureMaps:
        match step:
            case Block(is_of_units=False):
                return FeatureMaps(self._one_by_one(step, features.x))
            case Block():
                layers = [
                    [self._unit(unit, features.x) for unit in layer.units] for layer in step.layers
                ]
                return self._kernels.block(features, layers, self._model.recompute)
            case NormRelu():
                norm = self._norm(step.norm)
                return FeatureMaps(self._kernels.norm(features, norm, step.relu is not None))
            case Convolution(pool=Node(op=ops.AvgPool() as op)):
                return FeatureMaps(self._conv(step.conv, self._kernels.avg_pool(features.x, op)))
            case Convolution():
                y = self._normed_conv(step.conv, step.norm, features.x)
                return FeatureMaps(y if step.relu is None else self._kernels.relu(y))
        return FeatureMaps(self._alone(step.node, features.x))

    def _one_by_one(self, block: Block, x: Any) -> Any:
        """Compute a block whose layers no kernel fuses: each step as it would be outside of one."""
        for layer in block.layers:
            y = FeatureMaps(x)
            for step in layer.steps:
                y = self._do(step, y)
            x = keras.ops.concatenate([x, y.x], -1)
        return x

    def _alone(self, node: Node, x: Any) -> Any:
        match node.op:
            case ops.MaxPool():
                return self._kernels.max_pool(x, node.op)
            case ops.AvgPool():
                return self._kernels.avg_pool(x, node.op)
            case ops.Dropout() if node.name in self._scales:
                return x * self._scales[node.name]
            case ops.Dropout():
                return self._layer(node)(x, training=True)
            case ops.BatchNorm():
                return self._layer(node)(x, training=self._training)
        return self._layer(node)(x)

    def _conv(self, node: Node, x: Any) -> Any:
        layer = self._layer(node)
        return self._kernels.conv(x, _tensor(layer.kernel), _tensor(layer.bias), node.op)

    def _normed_conv(self, node: Node, behind: Node | None, x: Any) -> Any:
        if behind is None:
            return self._conv(node, x)
        layer, norm = self._layer(node), self._norm(behind)
        scale = norm.gamma * keras.ops.rsqrt(norm.variance + norm.epsilon)
        shift = norm.beta - norm.mean * scale
        bias = shift if layer.bias is None else shift + _tensor(layer.bias) * scale
        return self._kernels.conv(x, _tensor(layer.kernel) * scale, bias, node.op)

    def _norm(self, node: Node) -> NormOperands:
        layer = self._layer(node)

        def record(mean: Any, variance: Any, count: Any) -> None:
            require_several(layer, count)
            move_statistics(layer, mean, variance, count)

        return NormOperands(
            _tensor(layer.gamma),
            _tensor(layer.beta),
            _tensor(layer.moving_mean),
            _tensor(layer.moving_variance),
            layer.epsilon,
            self._trains(node),
            record,
        )

    def _unit(self, unit: Unit, x: Any) -> UnitOperands:
        layer, op, norm = self._layer(unit.conv), unit.conv.op, self._norm(unit.norm)
        assert isinstance(op, ops.Conv)
        return UnitOperands(
            norm,
            unit.relu is not None,
            _tensor(layer.kernel),
            _tensor(layer.bias),
            op,
            None if unit.dropout is None else self._scale(unit.dropout, x, op.filters),
            folded=unit.before is not None and not norm.batch,
        )

    def _scale(self, dropout: Node, x: Any, channels: int) -> Any:
        """Return a dropout's factor for values of a block that reads x, given or drawn."""
        if dropout.name in self._scales:
            return self._scales[dropout.name]
        ones = keras.ops.ones((*keras.ops.shape(x)[:-1], channels), dtype=x.dtype)
        return self._layer(dropout)(ones, training=True)


def _tensor(variable: Any) -> Any:
    return None if variable is None else keras.ops.convert_to_tensor(variable)
