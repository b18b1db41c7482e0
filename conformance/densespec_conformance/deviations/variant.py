"""The reference with some of its parts exchanged: what a network would compute if.

A :class:`Variant` is everything that decides a network's numbers: its graph, the weights it ends up
with, how each op is computed and by what rules it is trained. A deviation exchanges some of these,
so deviations can be combined. All arithmetic is the reference's, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

import densespec
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.recipes.moments import moving
from densespec.recipes.optimizers import Step
from densespec.recipes.recipe import AVERAGE, TrainingRecipe
from densespec.reference.kernels import Array, Context, Kernel
from densespec.reference.losses import loss_and_slope
from densespec.reference.model import ReferenceModel
from densespec_conformance.asking.requests import Batch, NetworkToBuild, StepTrace, Train
from densespec_conformance.deviations.kernels import KERNELS
from densespec_conformance.judging.measure import spoken

Loss = Callable[[TrainingRecipe, Array, Array], tuple[float, Array]]
"""A function of the recipe, logits and labels that gives the loss and its gradient."""


@dataclass(frozen=True)
class Update:
    """How one weight moves, every choice spelled out; the defaults are the recipe's.

    Attributes:
        decay: Weight decay is ``coupled`` to the gradient; ``decoupled`` from it, times the
            learning rate; or decoupled and ``unscaled``; None stands for the optimizer's own.
        decay_of: The function that gives the coefficient of a weight, by its name.
        nesterov, momentum: What replaces the recipe's, with SGD.
        dampening: The share of the gradient that the velocity does not take, after the first step.
        velocity: Whether it holds the learning rate, and is shown so (``raw``) or ``scaled`` back.
        epsilon: Where Adam adds it: ``outside`` of the root of the corrected second moment; to the
            root of the ``uncorrected`` one; or ``inside`` of the root.
        corrected: Whether Adam corrects the bias of its moments.
    """

    decay: Literal["coupled", "decoupled", "unscaled"] | None = None
    decay_of: Callable[[TrainingRecipe, str], float] = TrainingRecipe.decay_of
    nesterov: bool | None = None
    momentum: float | None = None
    dampening: float = 0.0
    velocity: Literal["plain", "raw", "scaled"] = "plain"
    epsilon: Literal["outside", "uncorrected", "inside"] = "outside"
    corrected: bool = True

    def step(
        self, recipe: TrainingRecipe, name: str, w: Array, g: Array, moments: Arrays, own: Step
    ) -> tuple[Array, Arrays]:
        """Give the new weight and moments.

        Args:
            moments: Those of the weight, by the name of the moment; zeros where one is not there.
            own: Its learning rate, its decay by the recipe, and the number of the step.
        """
        decay, rate = self.decay_of(recipe, name), own.rate
        kind = self.decay or ("decoupled" if recipe.optimizer == "adamw" else "coupled")
        if kind == "coupled":
            g = g + decay * w
        else:
            w = w - decay * w * (rate if kind == "decoupled" else 1.0)
        if recipe.optimizer == "sgd":
            return self._sgd(recipe, w, g, moments, rate)
        return self._adam(recipe, w, g, moments, own)

    def _sgd(
        self, recipe: TrainingRecipe, w: Array, g: Array, moments: Arrays, rate: float
    ) -> tuple[Array, Arrays]:
        momentum = recipe.momentum if self.momentum is None else self.momentum
        nesterov = recipe.nesterov if self.nesterov is None else self.nesterov
        v = moments.get("velocity", np.zeros_like(w))
        first = not v.any()
        scale = 1.0 if self.velocity == "plain" else rate
        g = scale * g
        v = momentum * v + (g if first else (1 - self.dampening) * g)
        ahead = g + momentum * v if nesterov else v
        return w - (rate / scale) * ahead, {"velocity": v}

    def _adam(
        self, recipe: TrainingRecipe, w: Array, g: Array, moments: Arrays, own: Step
    ) -> tuple[Array, Arrays]:
        beta1, beta2, epsilon = recipe.beta1, recipe.beta2, recipe.epsilon
        m = beta1 * moments.get("first_moment", np.zeros_like(w)) + (1 - beta1) * g
        s = beta2 * moments.get("second_moment", np.zeros_like(w)) + (1 - beta2) * g**2
        first, second = (1 - beta**own.number if self.corrected else 1.0 for beta in (beta1, beta2))
        sizes: dict[str, Callable[[], Array]] = {
            "outside": lambda: np.sqrt(s / second) + epsilon,
            "uncorrected": lambda: (np.sqrt(s) + epsilon) / np.sqrt(second),
            "inside": lambda: np.sqrt(s / second + epsilon),
        }
        ahead = m / first / sizes[self.epsilon]()
        return w - own.rate * ahead, {"first_moment": m, "second_moment": s}

    def shown(self, moment: str, array: Array, rate: float) -> Array:
        """Give a moment as the optimizer's state shows it."""
        if moment != "velocity":
            return array
        return {"plain": array, "raw": -array, "scaled": array / rate}[self.velocity]

    def kept(self, moment: str, shown: Array, rate: float) -> Array:
        """Give the moment that is shown so."""
        if moment != "velocity":
            return shown
        return {"plain": shown, "raw": -shown, "scaled": shown * rate}[self.velocity]


def _as_they_are(gradients: Arrays, weights: Arrays, recipe: TrainingRecipe) -> Arrays:
    return gradients


Clip = Callable[[Arrays, float], Arrays]
"""A function of the gradients and the recipe's norm that gives the gradients to move by."""


def norm(gradients: Arrays) -> float:
    """Give the norm of all gradients together."""
    return float(np.sqrt(sum(float((g**2).sum()) for g in gradients.values())))


def clipped(gradients: Arrays, limit: float) -> Arrays:
    """Scale gradients down to a norm, all together."""
    length = norm(gradients)
    return gradients if length <= limit else {n: g * (limit / length) for n, g in gradients.items()}


@dataclass(frozen=True)
class Averaged:
    """The average of one array in one step.

    Attributes:
        name: The array's.
        number: The step's, counted from 1.
        share: How much of the array it takes up.
    """

    recipe: TrainingRecipe
    name: str
    number: int
    share: float


Average = Callable[[Averaged], float]
"""How much of an array its average takes up."""


@dataclass(frozen=True)
class Rules:
    """How a network is trained.

    Attributes:
        loss: The loss of logits, and its gradient.
        reported: What is said of the loss, given the weights and the size of the batch.
        gradients: What becomes of the gradients before the step.
        shown: What is shown of the gradients.
        clip: How gradients are brought to the recipe's norm.
        accumulate: Whether the gradients of earlier steps are added.
        rate: The learning rate of a step, by all rates and the step's index.
        update: How each weight moves.
        parts: What is made of the gradients of a batch's parts, and of their losses: the mean over
            samples, the mean over parts, or the sum.
        average: How much averages take up of arrays.
        resumes: Whether moments that are given are taken up.
        recounts: Whether the steps of a run that goes on are counted from 1 again.
        recipe: What the recipe is taken for.
        across: What is made of several devices' gradients, and of their loss.
        statistics: What is made of their running statistics.
    """

    loss: Loss = loss_and_slope
    reported: Callable[[float, Arrays, TrainingRecipe, int], float] = (
        lambda loss, weights, recipe, count: loss
    )
    gradients: Callable[[Arrays, Arrays, TrainingRecipe], Arrays] = _as_they_are
    shown: Callable[[Arrays, Arrays, TrainingRecipe], Arrays] = _as_they_are
    clip: Clip = clipped
    accumulate: bool = False
    rate: Callable[[Sequence[float], int], float] = lambda rates, index: rates[index]
    update: Update = Update()
    parts: Literal["samples", "mean", "sum"] = "samples"
    average: Average = lambda now: now.share
    resumes: bool = True
    recounts: bool = False
    recipe: Callable[[TrainingRecipe], TrainingRecipe] = lambda recipe: recipe
    across: Literal["mean", "sum", "first"] = "mean"
    statistics: Literal["mean", "first"] = "mean"


@dataclass(frozen=True)
class Variant:
    """A network as some implementation has it.

    Attributes:
        weights: The arrays by canonical name, in float64.
        kernels: How each kind of op is computed.
        shown: By tap, the node whose value is seen there, where it is another one.
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
        """Give the reference itself, for inputs of a spatial size."""
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
        """Give the variant with other rules."""
        return replace(self, rules=replace(self.rules, **changes))

    def update_by(self, **changes: Any) -> Variant:
        """Give the variant with another update of the weights."""
        return self.train_by(update=replace(self.rules.update, **changes))

    def compute_by(self, kind: type, kernel: Kernel) -> Variant:
        """Give the variant with another kernel for a kind of op."""
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
    """What was computed before, by all that decides it.

    Attributes:
        open: Whether more is put in; afterwards things are only looked up.
    """

    open: bool = True
    _known: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    _arrays: dict[tuple[Any, ...], Array] = field(default_factory=dict)

    def get(self, key: Any, parts: Sequence[Array], compute: Callable[[], Any]) -> Any:
        """Give a result that ``key`` and these very arrays decide."""
        key = (key, *map(id, parts))
        if key in self._known:
            return self._known[key][0]
        result = compute()
        if self.open:
            self._known[key] = result, parts  # which keeps the arrays, so that ids stay theirs
        return result

    def same(self, array: Array) -> Array:
        """Give an equal array that was seen before, or this one."""
        key = array.shape, array.tobytes()
        return self._arrays.setdefault(key, array) if self.open else self._arrays.get(key, array)


@dataclass(frozen=True)
class Computed:
    """A node's value, and what its op saw besides its inputs."""

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
    """Give each node in order; it is computed when it is asked for."""
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
    """Give what there is to see of each step, by label, in the order in which it comes about:
    running statistics, loss, gradients from the last to the first, moments, weights, averages.

    Args:
        seen: Another run's steps: each step then goes on from what that run had come to, so that
            rounding and unstable training do not drive the two apart.
    """
    rules = variant.rules
    recipe = rules.recipe(request.recipe)
    weights = {name: memo.same(array) for name, array in variant.weights.items()}
    moments = _moments(request if rules.resumes else None)
    averages = _averages(recipe, variant, moments)
    before = 0 if rules.recounts else request.steps_before
    rates = [batch.learning_rate for batch in request.batches]
    earlier: Arrays = {}
    for index, batch in enumerate(request.batches):
        label, rate = f"step {index + 1}", rules.rate(rates, index)
        *earlier_parts, last = _parts(batch, recipe.accumulate)
        passed = []
        for part in earlier_parts:
            given = replace(variant, weights=weights)
            passed.append(_TrainingStep(given, recipe, part, request.replicas, memo))
            moved_on = dict(passed[-1].statistics())
            weights = weights | {name: memo.same(array) for name, array in moved_on.items()}
        step = _TrainingStep(
            replace(variant, weights=weights), recipe, last, request.replicas, memo
        )
        for name, array in step.statistics():
            yield f"{label}, running statistic {name}", array
        shares = _shares_of(rules, [len(one.batch.x) for one in (*passed, step)])
        loss = sum(s * one.loss for s, one in zip(shares, (*passed, step), strict=True))
        reported = rules.reported(loss, weights, recipe, len(batch.labels))
        yield f"{label}, loss", np.array(reported)
        found = _summed([one.gradients() for one in (*passed, step)], shares)
        gradients = rules.gradients(found, weights, recipe)
        if rules.accumulate:
            gradients = earlier = {n: g + earlier.get(n, 0.0) for n, g in gradients.items()}
        shown = rules.shown(gradients, weights, recipe)
        for name in reversed(shown):
            yield f"{label}, gradient {name}", shown[name]
        if recipe.clip_norm is not None:
            gradients = rules.clip(gradients, recipe.clip_norm)
        weights = dict(weights)
        for name, gradient in gradients.items():
            own = Step(
                rate * recipe.rate_factor_of(name), recipe.decay_of(name), before + index + 1
            )
            moved, moments[name] = rules.update.step(
                recipe, name, weights[name], gradient, moments.get(name, {}), own
            )
            weights[name] = memo.same(moved)
        for name in gradients:
            own_rate = rate * recipe.rate_factor_of(name)
            for moment, array in moments[name].items():
                shown_moment = rules.update.shown(moment, array, own_rate)
                yield f"{label}, {spoken(moment)} {name}", shown_moment
        for name in gradients:
            yield f"{label}, weight {name}", weights[name]
        weights |= {name: memo.same(array) for name, array in step.found.items()}
        for name, average in averages.items():
            number = before + index + 1
            now = Averaged(recipe, name, number, recipe.average_share(number))
            averages[name] = average + rules.average(now) * (weights[name] - average)
            yield f"{label}, {AVERAGE} {name}", averages[name]
        if index < len(seen):
            known = {n: np.asarray(w, np.float64) for n, w in seen[index].weights.items()}
            weights |= {name: memo.same(w) for name, w in known.items() if name in weights}
            taken = dict(seen[index].moments)
            averages |= {n: np.asarray(a, np.float64) for n, a in taken.pop(AVERAGE, {}).items()}
            for moment, arrays in taken.items():
                for name in gradients.keys() & arrays.keys():
                    array, own_rate = arrays[name], rate * recipe.rate_factor_of(name)
                    kept = rules.update.kept(moment, np.asarray(array, np.float64), own_rate)
                    moments[name] = moments[name] | {moment: kept}


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """Split a batch into consecutive parts, the first ones larger where it does not divide."""
    if count == 1:
        yield batch
        return
    for part in np.array_split(np.arange(len(batch.x)), count):
        masks = {name: mask[part] for name, mask in batch.masks.items()}
        labels = np.asarray(batch.labels)[part]
        yield replace(batch, x=batch.x[part], labels=labels, masks=masks)


def _shares_of(rules: Rules, sizes: Sequence[int]) -> list[float]:
    ways: Mapping[str, Callable[[int], float]] = {
        "samples": lambda size: size / sum(sizes),
        "mean": lambda size: 1 / len(sizes),
        "sum": lambda size: 1.0,
    }
    return [ways[rules.parts](size) for size in sizes]


def _summed(groups: Sequence[Arrays], shares: Sequence[float]) -> Arrays:
    if len(groups) == 1 and shares[0] == 1:
        return groups[0]
    return {
        name: np.sum([s * group[name] for s, group in zip(shares, groups, strict=True)], axis=0)
        for name in groups[0]
    }


def _averages(
    recipe: TrainingRecipe, variant: Variant, moments: Mapping[str, Arrays]
) -> dict[str, Array]:
    """Give the averages to go on from: those that are given, or the arrays themselves."""
    if recipe.average is None:
        return {}
    names = [weight.name for weight in moving(variant.graph)]
    return {name: moments.get(name, {}).get(AVERAGE, variant.weights[name]) for name in names}


def _moments(request: Train | None) -> dict[str, Arrays]:
    """Give the moments to go on from, by weight."""
    found: dict[str, Arrays] = {}
    for moment, arrays in ((request.moments if request else None) or {}).items():
        for name, array in arrays.items():
            found.setdefault(name, {})[moment] = array
    return found


@dataclass
class _TrainingStep:
    """One step's forward and backward pass, on as many devices as there are.

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
        self._factor = self.replicas if rules.across == "sum" else 1
        even = [1 / len(parts)] * len(parts)
        self._means = first if rules.statistics == "first" else even

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
        if len(groups) == 1 and self._factor == 1:
            return groups[0]
        factors = [self._factor * share for share in self._shares]
        return {
            name: np.sum([f * g[name] for f, g in zip(factors, groups, strict=True)], axis=0)
            for name in groups[0]
        }


class _Pass:
    """The forward and backward pass on one device's part of the batch; None stands for all of
    it."""

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
        return variant.rules.loss(self._step.recipe, logits, self._labels)

    def gradients(self) -> Arrays:
        variant, recipe = self._step.variant, self._step.recipe
        terms = recipe.loss, recipe.label_smoothing, recipe.class_weights, recipe.positive_weights

        def compute() -> Arrays:
            model = ReferenceModel(variant.graph, variant.weights, kernels=variant.kernels)
            return model._backward(self._values, self._contexts, self.loss_and_slope()[1])

        kernels = tuple(variant.kernels.items())
        key = (kernels, variant.graph.nodes, variant.rules.loss, terms)
        return self._step.memo.get(key, [*self._values.values(), self._labels], compute)
