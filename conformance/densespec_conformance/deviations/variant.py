"""Exchanges some parts of the reference: it computes what a network with them would.

A :class:`Variant` is everything that decides a network's numbers: its graph, the weights it ends up
with, how each op is computed and by what rules it is trained. A deviation exchanges some of these,
so deviations can be combined. All arithmetic is the reference's, in float64.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

import densespec
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.recipes.moments import moving
from densespec.recipes.optimizers import FIRST
from densespec.recipes.recipe import AVERAGE, TrainingRecipe
from densespec.reference.kernels import Array, Context, Kernel
from densespec.reference.losses import loss_and_slope
from densespec.reference.model import ReferenceModel
from densespec_conformance.asking.requests import Batch, NetworkToBuild, StepTrace, Train
from densespec_conformance.deviations.kernels import KERNELS
from densespec_conformance.judging.measure import spoken


@dataclass(frozen=True)
class Rules:
    """Says how a network is trained on several devices.

    Attributes:
        across: Which devices' gradients and losses count: the ``mean`` of all, or the ``first``'s.
    """

    across: Literal["mean", "first"] = "mean"


@dataclass(frozen=True)
class Variant:
    """Describes a network as some implementation has it.

    Attributes:
        weights: The arrays by canonical name, in float64.
        kernels: The computation of each kind of op.
        shown: The node whose value is seen at a tap, by tap, if it is another node.
        trainable_statistics: Whether running statistics are counted as trainable.
    """

    graph: Graph
    weights: Arrays
    kernels: Mapping[type, Kernel] = field(default_factory=lambda: KERNELS)
    rules: Rules = Rules()
    shown: Mapping[str, str] = field(default_factory=dict)
    trainable_statistics: bool = False

    @classmethod
    def of(cls, network: NetworkToBuild, size: tuple[int, ...] | None) -> Variant:
        """Return the reference itself, for inputs of a spatial size."""
        model = densespec.build(
            network.spec,
            backend="numpy",
            input_shape=None if size is None else (network.spec.in_channels, *size),
            weights=network.weights,
            seed=network.seed,
            dtype="float64",
            **dict(network.options),  # type: ignore[arg-type]
        )
        return cls(model.densespec.graph, model.weights)

    def train_by(self, **changes: Any) -> Variant:
        """Return the variant with other rules."""
        return replace(self, rules=replace(self.rules, **changes))

    def compute_by(self, kind: type, kernel: Kernel) -> Variant:
        """Return the variant with another kernel for a kind of op."""
        return replace(self, kernels={**self.kernels, kind: kernel})


def changed_nodes(before: Variant, after: Variant) -> set[str]:
    """Name the nodes whose op, inputs, arrays or place to be seen differ, and those that are gone;
    a node that is new counts by what reads it."""
    here = {node.name: node for node in after.graph.nodes}
    return {
        node.name
        for node in before.graph.nodes
        if node.name in after.shown
        or (there := here.get(node.name)) is None
        or (node.op, node.inputs) != (there.op, there.inputs)
        or before.kernels.get(type(node.op)) is not after.kernels.get(type(there.op))
        or any(before.weights[w.name] is not after.weights.get(w.name) for w in node.weights)
    }


@dataclass
class Memo:
    """Remembers what was computed before, by everything that decides it.

    Attributes:
        open: Whether new results are kept; afterwards results are only looked up.
    """

    open: bool = True
    _known: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    _arrays: dict[tuple[Any, ...], Array] = field(default_factory=dict)

    def get(self, key: Any, parts: Sequence[Array], compute: Callable[[], Any]) -> Any:
        """Return a result that ``key`` and these very arrays decide."""
        key = (key, *map(id, parts))
        if key in self._known:
            return self._known[key][0]
        result = compute()
        if self.open:
            self._known[key] = result, parts  # which keeps the arrays, so that ids stay theirs
        return result

    def same(self, array: Array) -> Array:
        """Return an equal array that was seen before, or this one."""
        key = array.shape, array.tobytes()
        return self._arrays.setdefault(key, array) if self.open else self._arrays.get(key, array)


@dataclass(frozen=True)
class Computed:
    """Holds a node's value, and what its op saw besides its inputs."""

    node: Node
    value: Array
    context: Context


def run(
    variant: Variant,
    x: Array,
    memo: Memo,
    *,
    training: bool = False,
    masks: Mapping[str, Array] | None = None,
) -> Iterator[Computed]:
    """Yield each node in order; it is computed when it is asked for."""
    first, *rest = variant.graph.nodes
    values = {first.name: x}
    for node in rest:
        kernel, learns = variant.kernels[type(node.op)], training and not node.frozen
        own = {w.name.rpartition(".")[2]: variant.weights[w.name] for w in node.weights}
        mask = (masks or {}).get(node.name)
        inputs = [values[source] for source in node.inputs]
        context = Context(node.name, own, learns, mask)
        compute = partial(_compute, node, kernel, context, inputs)
        parts = [*inputs, *own.values(), *([] if mask is None else [mask])]
        computed = memo.get((node.name, node.op, kernel, learns), parts, compute)
        values[node.name] = computed.value
        yield computed


def _compute(node: Node, kernel: Kernel, context: Context, inputs: Sequence[Array]) -> Computed:
    return Computed(node, kernel.forward(node.op, context, *inputs), context)


def train(
    variant: Variant, request: Train, memo: Memo, seen: Sequence[StepTrace] = ()
) -> Iterator[tuple[str, Array]]:
    """Yield what there is to see of each step, by label, in the order in which it comes about:
    running statistics, loss, gradients from the last to the first, moments, weights, averages.

    Args:
        seen: Another run's steps: each step then goes on from what that run had come to, so that
            rounding and unstable training do not drive the two apart.
    """
    recipe = request.recipe
    weights = {name: memo.same(array) for name, array in variant.weights.items()}
    moments = _moments(request)
    averages = _averages(recipe, variant, moments)
    for index, batch in enumerate(request.batches):
        label, parts = f"step {index + 1}", list(_parts(batch, recipe.accumulate))
        steps: list[_TrainingStep] = []
        for part in parts:
            here = replace(variant, weights=weights)
            steps.append(_TrainingStep(here, recipe, part, request.replicas, memo))
            for name, array in steps[-1].statistics():
                if part is parts[-1]:
                    yield f"{label}, running statistic {name}", array
            weights = weights | {n: memo.same(array) for n, array in steps[-1].found.items()}
        shares = [len(part.x) / len(batch.x) for part in parts]
        loss = sum(share * step.loss for share, step in zip(shares, steps, strict=True))
        yield f"{label}, loss", np.array(loss)
        gradients = _weighed([step.gradients() for step in steps], shares)
        for name in reversed(gradients):
            yield f"{label}, gradient {name}", gradients[name]
        factor = recipe.clip_factor(_norm(gradients))
        weights, number = dict(weights), request.steps_before + index + 1
        for name, gradient in gradients.items():
            w = weights[name]
            held = {
                m: moments[name].get(m, np.full_like(w, FIRST.get(m, 0)))
                for m in recipe.rule.moments
            }
            moved, moments[name] = recipe.step(
                name, w, factor * gradient, held, batch.learning_rate, number
            )
            weights[name] = memo.same(moved)
        for name in gradients:
            for moment, array in moments[name].items():
                yield f"{label}, {spoken(moment)} {name}", array
        for name in gradients:
            yield f"{label}, weight {name}", weights[name]
        for name, average in averages.items():
            share = recipe.average_share(number)
            averages[name] = average + share * (weights[name] - average)
            yield f"{label}, {AVERAGE} {name}", averages[name]
        if index < len(seen):
            known = {n: np.asarray(w, np.float64) for n, w in seen[index].weights.items()}
            weights |= {name: memo.same(w) for name, w in known.items() if name in weights}
            for moment, arrays in seen[index].moments.items():
                for name in gradients.keys() & arrays.keys():
                    moments[name] = {**moments[name], moment: np.asarray(arrays[name], np.float64)}
            taken = seen[index].moments.get(AVERAGE, {})
            averages |= {name: np.asarray(array, np.float64) for name, array in taken.items()}


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """Split a batch into consecutive parts, the first ones larger where it does not divide."""
    if count == 1:
        yield batch
        return
    for part in np.array_split(np.arange(len(batch.x)), count):
        masks = {name: mask[part] for name, mask in batch.masks.items()}
        yield replace(batch, x=batch.x[part], labels=np.asarray(batch.labels)[part], masks=masks)


def _weighed(groups: Sequence[Arrays], factors: Sequence[float]) -> Arrays:
    """Return weighed sums of arrays of the same name."""
    pairs = list(zip(factors, groups, strict=True))
    return {name: np.sum([factor * g[name] for factor, g in pairs], axis=0) for name in groups[0]}


def _averages(
    recipe: TrainingRecipe, variant: Variant, moments: Mapping[str, Arrays]
) -> dict[str, Array]:
    """Return the averages to go on from: those that are given, or the arrays themselves."""
    if recipe.average is None:
        return {}
    names = [weight.name for weight in moving(variant.graph)]
    return {name: moments.get(name, {}).get(AVERAGE, variant.weights[name]) for name in names}


def _norm(gradients: Arrays) -> float:
    return float(np.sqrt(sum(float((g**2).sum()) for g in gradients.values())))


def _moments(request: Train) -> defaultdict[str, Arrays]:
    """Return the moments to go on from, by weight."""
    found: defaultdict[str, Arrays] = defaultdict(dict)
    for moment, arrays in (request.moments or {}).items():
        for name, array in arrays.items():
            found[name][moment] = array
    return found


@dataclass
class _TrainingStep:
    """Runs one step's forward and backward pass, on as many devices as there are.

    Attributes:
        found: The new running statistics, once all have been asked for.
    """

    variant: Variant
    recipe: TrainingRecipe
    batch: Batch
    replicas: int
    memo: Memo
    found: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        rules, count = self.variant.rules, len(self.batch.x)
        split = self.recipe.batch_norm == "per-replica" or rules.across == "first"
        parts = np.array_split(np.arange(count), self.replicas if split else 1)
        self._passes = [_Pass(self, None if len(parts) == 1 else part) for part in parts]
        first = [1.0] + [0.0] * (len(parts) - 1)
        shares = [len(part) / count for part in parts]
        self._shares = first if rules.across == "first" else shares
        self._means = [1 / len(parts)] * len(parts)

    def statistics(self) -> Iterator[tuple[str, Array]]:
        for groups in zip(*[one.statistics() for one in self._passes], strict=True):
            name = groups[0][0]
            arrays = [m * array for m, (_, array) in zip(self._means, groups, strict=True)]
            self.found[name] = np.sum(arrays, axis=0)
            yield name, self.found[name]

    @property
    def loss(self) -> float:
        losses = [one.loss_and_slope()[0] for one in self._passes]
        return sum(share * loss for share, loss in zip(self._shares, losses, strict=True))

    def gradients(self) -> Arrays:
        groups = [one.gradients() for one in self._passes]
        if len(groups) == 1:
            return groups[0]
        return _weighed(groups, self._shares)


class _Pass:
    """Runs the passes on one device's part of the batch; None stands for the whole batch."""

    def __init__(self, step: _TrainingStep, part: Array | None) -> None:
        batch, variant, memo = step.batch, step.variant, step.memo
        every: Any = slice(None) if part is None else part
        self._labels, self._step = memo.same(np.asarray(batch.labels)[every]), step
        x = memo.same(np.asarray(batch.x[every], np.float64))
        masks = {name: memo.same(np.asarray(m[every], float)) for name, m in batch.masks.items()}
        self._values: Arrays = {variant.graph.input.name: x}
        self._contexts: dict[str, Context] = {}
        self._nodes = run(variant, x, memo, training=True, masks=masks)

    def statistics(self) -> Iterator[tuple[str, Array]]:
        for computed in self._nodes:
            name = computed.node.name
            self._values[name], self._contexts[name] = computed.value, computed.context
            for short, array in computed.context.statistics.items():
                yield f"{name}.{short}", array

    def loss_and_slope(self) -> tuple[float, Array]:
        variant = self._step.variant
        logits = self._values[variant.graph.output.name]
        return loss_and_slope(self._step.recipe, logits, self._labels)

    def gradients(self) -> Arrays:
        variant, recipe = self._step.variant, self._step.recipe
        terms = recipe.loss, recipe.label_smoothing, recipe.class_weights, recipe.positive_weights

        def compute() -> Arrays:
            model = ReferenceModel(variant.graph, variant.weights, kernels=variant.kernels)
            return model._backward(self._values, self._contexts, self.loss_and_slope()[1])

        kernels = tuple(variant.kernels.items())
        key = (kernels, variant.graph.nodes, terms)
        return self._step.memo.get(key, [*self._values.values(), self._labels], compute)
