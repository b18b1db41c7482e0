"""DenseNets in plain JAX functions, channels first: a model is a dictionary of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from densespec.backends import DataFormat, StepResult, require_logits
from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.recipes.moments import OptimizerMoments, check_moments, zero_moments
from densespec.recipes.recipe import TrainingRecipe

Values = dict[str, jax.Array]


@dataclass
class Model:
    """The arrays of a network by canonical name; everything else is in its graph."""

    graph: Graph
    weights: Values


def compute(
    graph: Graph, weights: Values, x: jax.Array, masks: Mapping[str, Any] | None = None
) -> tuple[Values, Values]:
    """The value of every node, and new running statistics; with masks, in training mode."""
    values, statistics = Values({graph.input.name: x}), Values()
    given = masks or {}
    for node in graph.nodes[1:]:
        inputs = [values[name] for name in node.inputs]
        trains = masks is not None and not node.frozen
        w = {each.name.rpartition(".")[2]: weights[each.name] for each in node.weights}
        match node.op:
            case ops.BatchNorm() if trains:
                values[node.name], new = _train_norm(node.op, w, *inputs)
                statistics |= {f"{node.name}.{name}": array for name, array in new.items()}
            case ops.Dropout() if trains:
                kept = jnp.asarray(given[node.name], inputs[0].dtype)
                values[node.name] = inputs[0] * kept / (1 - node.op.rate)
            case _:
                values[node.name] = _infer(node, w, *inputs)
    return values, statistics


def _infer(node: Node, w: Values, x: jax.Array, *others: jax.Array) -> jax.Array:
    match node.op:
        case ops.Conv() as op:
            padding = ops.resolve_padding(op.padding, x.shape[2:], op.window, op.stride)
            y = jax.lax.conv_general_dilated(
                x, w["kernel"], (op.stride,) * len(op.window), padding, precision="highest"
            )
            return y + _wide(w["bias"], y) if op.bias else y
        case ops.BatchNorm() as op:
            return _normalise(op, w, x, w["running_mean"], w["running_variance"])
        case ops.Relu():
            return jax.nn.relu(x)
        case ops.Dropout():
            return x
        case ops.Concat():
            return jnp.concatenate((x, *others), axis=1)
        case ops.MaxPool() as op:
            padding = ops.resolve_padding(op.padding, x.shape[2:], op.window, op.stride)
            return _reduce(x, jax.lax.max, -jnp.inf, op.window, op.stride, padding)
        case ops.AvgPool() as op:
            none = ((0, 0),) * len(op.window)
            return _reduce(x, jax.lax.add, 0, op.window, op.stride, none) / np.prod(op.window)
        case ops.BlurPool() as op:
            return _blur_pool(op, x)
        case ops.GlobalPool() as op:
            return _global_pool(op.kind, x)
        case ops.Dense() as op:
            y = jnp.matmul(x, w["kernel"].T, precision="highest")
            return y + w["bias"] if op.bias else y
        case ops.Softmax():
            return jax.nn.softmax(x, axis=1)
        case ops.Sigmoid():
            return jax.nn.sigmoid(x)
    raise NotImplementedError(f"{node.name}: {node.op}")


def _blur_pool(op: ops.BlurPool, x: jax.Array) -> jax.Array:
    x = jnp.pad(x, ((0, 0), (0, 0), *op.pads), mode="reflect")
    for axis, factors in enumerate(op.factors, start=2):
        first = jnp.moveaxis(x, axis, 0)
        views = (
            first[i : len(first) - len(factors) + i + 1 : op.stride] for i in range(len(factors))
        )
        x = jnp.moveaxis(sum(f * view for f, view in zip(factors, views, strict=True)), 0, axis)
    return x


def _global_pool(kind: str, x: jax.Array) -> jax.Array:
    axes = tuple(range(2, x.ndim))
    mean, maximum = x.mean(axes), x.max(axes)
    if kind == "catavgmax":
        return jnp.concatenate((mean, maximum), axis=1)
    return {"avg": mean, "max": maximum, "avgmax": (mean + maximum) / 2}[kind]


def _wide(array: jax.Array, like: jax.Array) -> jax.Array:
    """An array over channels, with axes for the spatial dimensions."""
    return array.reshape(-1, *(1,) * (like.ndim - 2))


def _reduce(
    x: jax.Array, function: Any, start: float, window: Sequence[int], stride: int, padding: Any
) -> jax.Array:
    steps = (1, 1, *(stride,) * len(window))
    around = ((0, 0), (0, 0), *padding)
    return jax.lax.reduce_window(
        x, np.array(start, x.dtype)[()], function, (1, 1, *window), steps, around
    )


def _normalise(
    op: ops.BatchNorm, w: Values, x: jax.Array, mean: jax.Array, variance: jax.Array
) -> jax.Array:
    scale = w["gamma"] / jnp.sqrt(variance + op.epsilon)
    return (x - _wide(mean, x)) * _wide(scale, x) + _wide(w["beta"], x)


def _train_norm(op: ops.BatchNorm, w: Values, x: jax.Array) -> tuple[jax.Array, Values]:
    axes = (0, *range(2, x.ndim))
    mean, variance = x.mean(axes), x.var(axes)
    count = x.size // x.shape[1]
    kept = {"mean": mean, "variance": variance * count / (count - 1) if op.unbiased else variance}
    return _normalise(op, w, x, mean, variance), {
        f"running_{name}": (1 - op.momentum) * w[f"running_{name}"] + op.momentum * new
        for name, new in kept.items()
    }


def _loss(recipe: TrainingRecipe, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The recipe's loss of logits (batch, classes)."""
    classes, smoothing = logits.shape[1], recipe.label_smoothing
    if recipe.loss == "softmax":
        target = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
        each = jnp.asarray(recipe.class_weights or (1.0,) * classes, logits.dtype)[labels]
        target = target * (1 - smoothing) + smoothing / classes
        return -(each * (target * jax.nn.log_softmax(logits)).sum(1)).mean()
    if recipe.loss == "squared":
        return jnp.square(jnp.where(jnp.isnan(labels), 0, logits - labels)).mean()
    positive = jnp.asarray(recipe.positive_weights or 1.0, logits.dtype)
    target = jnp.where(labels >= 0, labels, 0) * (1 - smoothing) + smoothing / 2
    given, absent = jax.nn.softplus(-logits), jax.nn.softplus(logits)
    return ((labels >= 0) * (positive * target * given + (1 - target) * absent)).mean()


class Trainer:
    """Steps by the recipe on a model, in place."""

    def __init__(self, model: Model, recipe: TrainingRecipe) -> None:
        require_logits(model.graph)
        self.model, self.recipe = model, recipe
        self.names = [weight.name for weight in model.graph.weights if weight.trainable]
        self.kept = _on_device(
            zero_moments(model.graph, recipe, str(next(iter(model.weights.values())).dtype))
        )
        self.steps = 0

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
        gradients: bool = True,
    ) -> StepResult:
        graph, weights = self.model.graph, self.model.weights
        masks = self._drawn(len(x)) if masks is None else masks

        def loss_of(trained: Values) -> tuple[jax.Array, Values]:
            inputs = jnp.asarray(x, next(iter(weights.values())).dtype)
            values, statistics = compute(graph, weights | trained, inputs, masks)
            return _loss(self.recipe, values[graph.output.name], jnp.asarray(labels)), statistics

        trained = {name: weights[name] for name in self.names}
        (loss, statistics), found = jax.value_and_grad(loss_of, has_aux=True)(trained)
        rule: Any = self.recipe.step  # arithmetic alone, so it takes JAX's arrays too
        self.steps += 1
        norm = sum(jnp.square(gradient).sum() for gradient in found.values()) ** 0.5
        factor = self.recipe.clip_factor(float(norm))
        for name, gradient in found.items():
            before = {moment: arrays[name] for moment, arrays in self.kept.items()}
            weights[name], after = rule(
                name, weights[name], factor * gradient, before, learning_rate, self.steps
            )
            for moment, array in after.items():
                self.kept[moment][name] = array
        weights.update(statistics)
        return StepResult(float(loss), _to_numpy(found) if gradients else {})

    def _drawn(self, batch: int) -> dict[str, np.ndarray]:
        draw = np.random.default_rng()
        return {
            node.name: draw.random((batch, *filter(None, node.shape))) >= node.op.rate
            for node in self.model.graph.nodes
            if isinstance(node.op, ops.Dropout)
        }

    def predict(self, x: np.ndarray) -> np.ndarray:
        name = self.model.graph.output.name
        return BACKEND.forward(self.model, self.model.graph, x, [name])[name]

    def moments(self) -> dict[str, Arrays]:
        return {moment: _to_numpy(arrays) for moment, arrays in self.kept.items()}

    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        check_moments(self.model.graph, self.recipe, moments)
        self.kept, self.steps = _on_device(moments), step

    def weights(self) -> Arrays:
        return _to_numpy(self.model.weights)

    def close(self) -> None:
        """Nothing is held."""


def _on_device(moments: OptimizerMoments) -> dict[str, Values]:
    return {
        moment: {name: jnp.asarray(array) for name, array in arrays.items()}
        for moment, arrays in moments.items()
    }


def _to_numpy(arrays: Values) -> Arrays:
    return {name: np.asarray(array) for name, array in arrays.items()}


class Backend:
    """What densespec asks of a backend; see ``densespec.Backend``."""

    def data_format(self, requested: DataFormat | None) -> DataFormat:
        if requested == "channels_last":
            raise ValueError("data_format = 'channels_last', but plain-jax is channels first only")
        return "channels_first"

    def build(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        *,
        dtype: str | None,
        data_format: DataFormat,
        name: str,
    ) -> Model:
        if dtype == "float64":
            config: Any = jax.config
            config.update("jax_enable_x64", True)
        model = Model(graph, {})
        for key, array in weights.items():
            model.weights[key] = jnp.asarray(array, dtype or "float32")
        return model

    def read_weights(self, model: Model, graph: Graph) -> Arrays:
        return _to_numpy(model.weights)

    def write_weights(self, model: Model, graph: Graph, weights: Mapping[str, np.ndarray]) -> None:
        for name, array in weights.items():
            model.weights[name] = jnp.asarray(array, model.weights[name].dtype)

    def count_parameters(self, model: Model) -> tuple[int, int]:
        trainable = {weight.name for weight in model.graph.weights if weight.trainable}
        sizes = {name: array.size for name, array in model.weights.items()}
        count = sum(size for name, size in sizes.items() if name in trainable)
        return count, sum(sizes.values()) - count

    def forward(self, model: Model, graph: Graph, x: np.ndarray, taps: Sequence[str]) -> Arrays:
        dtype = next(iter(model.weights.values())).dtype
        values, _ = compute(graph, model.weights, jnp.asarray(x, dtype))
        return {name: np.asarray(values[name]) for name in taps}

    def trainer(self, model: Model, graph: Graph, recipe: TrainingRecipe) -> Trainer:
        return Trainer(model, recipe)


BACKEND = Backend()
