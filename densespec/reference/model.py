"""Runs a network by numpy: its values, gradients and training steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from densespec.backends import StepResult
from densespec.errors import UnknownName
from densespec.network.arrays import Arrays, check_weights
from densespec.network.graph import Graph, Node
from densespec.recipes.moments import initial_moments
from densespec.recipes.recipe import AVERAGE, TrainingRecipe
from densespec.reference.kernels import (
    KERNELS,
    Array,
    Context,
    Kernel,
    OpError,
    check_constraint,
)
from densespec.reference.losses import loss_and_slope


def _weighted(tables: Sequence[Arrays], shares: Sequence[float]) -> Arrays:
    """Sum up arrays of the same name, each times its share."""
    return {
        name: sum(
            (share * table[name] for share, table in zip(shares[1:], tables[1:], strict=True)),
            start=shares[0] * tables[0][name],
        )
        for name in tables[0]
    }


def _norm(arrays: Iterable[Array]) -> float:
    """Compute the norm of arrays as one vector."""
    return float(np.sqrt(sum(float(np.square(array).sum()) for array in arrays)))


PLAIN = TrainingRecipe()


class ReferenceModel:
    """Runs a graph by numpy.

    Attributes:
        graph: the network.
        weights: every array by canonical name.
        moments: the arrays that are kept beside the weights, by the name of the moment and of the
            weight; empty before the first step.
        steps: the number of steps that it has taken.
        dtype: the dtype of all arithmetic; float64 unless asked otherwise.
        kernels: the computation of each op kind.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Array],
        *,
        dtype: Any = np.float64,
        kernels: Mapping[type, Kernel] = KERNELS,
    ) -> None:
        self.graph = graph
        self.kernels = kernels
        self.dtype = np.dtype(dtype)
        self.weights: Arrays = {}
        self.load(weights)
        self.moments: dict[str, Arrays] = {}
        self.steps = 0

    def load(self, weights: Mapping[str, Array]) -> None:
        """Replace every array.

        Raises:
            WeightsError: a name or a shape does not fit the graph; nothing is replaced then.
        """
        check_weights(self.graph, weights)
        self.weights = {name: np.array(array, self.dtype) for name, array in weights.items()}

    def __call__(self, x: Array) -> Any:
        """Compute the output in inference mode for ``x`` of shape (batch, channels, *spatial).

        The output is (batch, classes), or features (batch, channels, *spatial) without a
        classifier. It is a tuple of such arrays if the graph has ``outputs``.
        """
        names = [node.name for node in self.graph.given]
        values = self.run(x, taps=names)
        return tuple(values[name] for name in names) if self.graph.outputs else values[names[0]]

    def run(
        self,
        x: Array,
        *,
        taps: Iterable[str],
        training: bool = False,
        masks: Mapping[str, Array] | None = None,
    ) -> Arrays:
        """Compute the values of the nodes named in ``taps``. Other values are not kept.

        Raises:
            UnknownName: a tap is no node; the message suggests near names.
        """
        names = dict.fromkeys(node.name for node in self.graph.nodes)
        keep = set(taps)
        for tap in keep - names.keys():
            raise UnknownName("node", tap, names)
        values, _ = self._forward(x, training, masks or {}, keep=keep)
        return values

    def loss_and_gradients(
        self,
        x: Array,
        labels: Array,
        *,
        masks: Mapping[str, Array] | None = None,
        recipe: TrainingRecipe = PLAIN,
    ) -> tuple[float, Arrays, Arrays]:
        """Compute the loss in training mode, all trainable weights' gradients, and new statistics.

        O6: the network ends in its classifier, without softmax, because the loss takes logits.

        Args:
            x: (batch, channels, *spatial).
            labels: labels as the recipe's loss takes them.
            masks: an array for each dropout node, with the shape of its input: 1 keeps, 0 drops.
            recipe: the recipe that states the loss.
        """
        output = self.graph.output
        logits = self.graph.gives_logits
        check_constraint(
            logits, "O6", output.name, "the loss is of logits, the classifier's output"
        )
        everything = {node.name for node in self.graph.nodes}
        values, contexts = self._forward(x, True, masks or {}, keep=everything)
        loss, slope = loss_and_slope(recipe, values[output.name], labels)
        gradients = self._backward(values, contexts, slope)
        statistics = {
            f"{name}.{short}": array
            for name, ctx in contexts.items()
            for short, array in ctx.statistics.items()
        }
        return loss, gradients, statistics

    def train_step(
        self,
        x: Array,
        labels: Array,
        recipe: TrainingRecipe,
        *,
        learning_rate: float,
        masks: Mapping[str, Array] | None = None,
        replicas: int = 1,
    ) -> StepResult:
        """Take one step by :mod:`densespec.recipes.recipe`, and update the statistics once.

        Args:
            replicas: the number of devices among which the batch is split.
        """
        learning_rate = float(learning_rate)  # a numpy float64 would widen a float32 model
        apart = replicas if recipe.batch_norm == "per-replica" else 1
        self.moments = self.moments or self.initial_moments(recipe)
        loss, gradients = self._over_parts(x, labels, masks or {}, recipe, apart)
        self.steps += 1
        factor = recipe.clip_factor(_norm(gradients.values()))
        for name, gradient in gradients.items():
            before = {moment: self.moments[moment][name] for moment in recipe.rule.moments}
            self.weights[name], after = recipe.step(
                name, self.weights[name], factor * gradient, before, learning_rate, self.steps
            )
            for moment, array in after.items():
                self.moments[moment][name] = array
        self._average(recipe)
        return StepResult(loss, gradients)

    def initial_moments(self, recipe: TrainingRecipe) -> dict[str, Arrays]:
        """Return what is kept beside the weights that there are before the first step."""
        return initial_moments(self.graph, recipe, self.weights, self.dtype.name)

    def averaged(self) -> ReferenceModel:
        """Return the network of the averages, where there are any."""
        weights = self.weights | self.moments.get(AVERAGE, {})
        return ReferenceModel(self.graph, weights, dtype=self.dtype, kernels=self.kernels)

    def _average(self, recipe: TrainingRecipe) -> None:
        averages = self.moments.get(AVERAGE, {})
        for name, average in averages.items():
            share = recipe.average_share(self.steps)
            averages[name] = average + share * (self.weights[name] - average)

    def _over_parts(
        self,
        x: Array,
        labels: Array,
        masks: Mapping[str, Array],
        recipe: TrainingRecipe,
        replicas: int,
    ) -> tuple[float, Arrays]:
        """Average over the parts of a batch. Each part updates the running statistics."""
        losses, gradients, shares = [], [], []
        for part in np.array_split(np.arange(len(x)), recipe.accumulate):
            own = {name: mask[part] for name, mask in masks.items()}
            loss, found, statistics = self._over_replicas(
                x[part], labels[part], own, recipe, replicas
            )
            self.weights.update(statistics)
            losses.append(loss)
            gradients.append(found)
            shares.append(len(part) / len(x))
        if len(shares) == 1:
            return losses[0], gradients[0]
        return float(np.dot(shares, losses)), _weighted(gradients, shares)

    def _over_replicas(
        self,
        x: Array,
        labels: Array,
        masks: Mapping[str, Array],
        recipe: TrainingRecipe,
        count: int,
    ) -> tuple[float, Arrays, Arrays]:
        """Average over shards: loss and gradients by samples, statistics by shards."""
        parts = np.array_split(np.arange(len(x)), count)
        results = [
            self.loss_and_gradients(
                x[part],
                labels[part],
                masks={name: mask[part] for name, mask in masks.items()},
                recipe=recipe,
            )
            for part in parts
        ]
        if count == 1:
            return results[0]
        losses, gradients, statistics = zip(*results, strict=True)
        shares = [len(part) / len(x) for part in parts]
        loss = float(np.dot(shares, losses))
        return loss, _weighted(gradients, shares), _weighted(statistics, [1 / count] * count)

    def _forward(
        self, x: Array, training: bool, masks: Mapping[str, Array], keep: set[str]
    ) -> tuple[Arrays, dict[str, Context]]:
        self.check_input(x)
        first, *rest = self.graph.nodes
        values = {first.name: np.asarray(x, self.dtype)}
        contexts: dict[str, Context] = {}
        last_reader = {source: node.name for node in rest for source in node.inputs}
        for node in rest:
            ctx = contexts[node.name] = self._context(node, training, masks)
            inputs = [values[source] for source in node.inputs]
            values[node.name] = self.kernels[type(node.op)].forward(node.op, ctx, *inputs)
            for source in node.inputs:
                if source not in keep and last_reader[source] == node.name:
                    values.pop(source, None)
        return {name: values[name] for name in values if name in keep}, contexts

    def _context(self, node: Node, training: bool, masks: Mapping[str, Array]) -> Context:
        weights = {w.short: self.weights[w.name] for w in node.weights}
        mask = masks.get(node.name)
        mask = None if mask is None else np.asarray(mask, self.dtype)
        return Context(node.name, weights, training and not node.frozen, mask)

    def _backward(self, values: Arrays, contexts: dict[str, Context], slope: Array) -> Arrays:
        slopes = {self.graph.output.name: slope}
        gradients: Arrays = {}
        for node in reversed(self.graph.nodes[1:]):
            if node.frozen:  # and so is everything before it
                break
            inputs = [values[source] for source in node.inputs]
            ctx, dy = contexts[node.name], slopes.pop(node.name)
            dxs, own = self.kernels[type(node.op)].backward(node.op, ctx, dy, *inputs)
            gradients.update({f"{node.name}.{short}": array for short, array in own.items()})
            for source, dx in zip(node.inputs, dxs, strict=True):
                slopes[source] = slopes[source] + dx if source in slopes else dx
        return {w.name: gradients[w.name] for w in self.graph.weights if w.trainable}

    def check_input(self, x: Array) -> None:
        """Check that an input fits the graph.

        O5: the input has the shape of the graph's, with a batch axis before it.
        """
        expected = self.graph.input.shape
        fits = x.ndim == 1 + len(expected) and all(
            size is None or size == actual
            for size, actual in zip(expected, x.shape[1:], strict=True)
        )
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        if not fits:
            raise OpError(f"input: shape {x.shape}, but should be (batch, {wanted}) [O5]")
