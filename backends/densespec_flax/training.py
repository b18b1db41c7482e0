"""Takes training steps by a pure function of a network's arrays, which is compiled once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from densespec.backends import StepResult, check_labels, require_logits
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.moments import OptimizerMoments, check_moments, moving
from densespec.recipes.recipe import AVERAGE, TrainingRecipe
from densespec_flax.arrays import at, read, replaced, to_canonical, variables
from densespec_flax.layers import from_canonical, path_of
from densespec_flax.losses import losses
from densespec_flax.modules import DenseNet
from densespec_flax.optimizers import moments_in, optimizer_of, with_moments
from densespec_flax.parts import Batch, by_device, parts_of
from densespec_flax.running import as_input, in_training, predict
from densespec_flax.scaling import LossScale, all_finite, first_scale

MOVED = (nnx.BatchStat, nnx.RngCount)
"""Training moves these variables besides the parameters."""


@dataclass(frozen=True)
class Program:
    """Holds what is known of a step when it is compiled.

    Attributes:
        graphdef: The network in training mode, without its arrays.
        gradients: Whether the step returns the gradients.
        mesh: The devices whose norms each see their own part of the batch; None if norms see all of
            it.
    """

    graphdef: Any
    recipe: TrainingRecipe
    gradients: bool
    mesh: Any = None


class Pace(NamedTuple):
    """Says how far a step goes.

    Attributes:
        rate: The learning rate.
        share: The share of the arrays that their averages take up; None without averages.
    """

    rate: Any
    share: Any


class Beside(NamedTuple):
    """Holds what is kept beside a network while it trains.

    Attributes:
        optimizer: The state of :func:`densespec_flax.optimizer_of`.
        scale: The factor on the loss, if it has one.
        average: The averages of arrays by canonical name; none without averages.
    """

    optimizer: Any
    scale: LossScale | None
    average: dict[str, Any]

    @property
    def factor(self) -> Any:
        """Return the factor by which the loss is multiplied while it is differentiated."""
        return 1.0 if self.scale is None else self.scale.factor


Others = tuple[Any, Any]
"""Holds what training moves besides the parameters, and all else of a network."""


class LiveState:
    """Gives the variables of a model of some kind, as trees that functions of arrays take.

    Args:
        state: A state of the model with the wanted variables.
    """

    def __init__(self, model: nnx.Module, state: Any) -> None:
        self._variables = [at(model, path) for path, _ in nnx.to_flat_state(state)]
        self._tree = jax.tree.structure(state)

    def get(self) -> Any:
        """Return the arrays that the model has now."""
        return jax.tree.unflatten(self._tree, [v.get_value() for v in self._variables])

    def set(self, state: Any) -> None:
        """Put other arrays into the model."""
        for variable, array in zip(self._variables, jax.tree.leaves(state), strict=True):
            variable.set_value(array)


class FlaxTrainer:
    """Takes training steps of a model by a recipe; see :class:`densespec.backends.Trainer`.

    The model's variables hold the new arrays after each step. Its own mode is left alone.

    Raises:
        ValueError: The network gives no logits.
    """

    _mesh: Any = None

    def __init__(self, model: DenseNet, graph: Graph, recipe: TrainingRecipe) -> None:
        require_logits(graph)
        recipe.check_classes(graph.spec.classes)
        self._model, self._graph, self._recipe = model, graph, recipe
        filters = (nnx.Param, MOVED, ...)
        self._graphdef, *states = nnx.split(in_training(model, True), *filters)
        self._parameters, self._moved, self._rest = (LiveState(model, s) for s in states)
        self._average = self._averaged()
        self._optimizer = optimizer_of(recipe).init(states[0])
        self._scale = first_scale() if recipe.dtype == "mixed_float16" else None
        self._done = 0

    def _averaged(self) -> dict[str, Any]:
        """Return copies of the arrays of which averages are kept, by canonical name."""
        if self._recipe.average is None:
            return {}
        found = variables(self._model, self._graph)
        return {w.name: jnp.array(found[w.name].get_value()) for w in moving(self._graph)}

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
        gradients: bool = True,
    ) -> StepResult:
        """Take one step; see :class:`densespec.backends.Trainer`.

        Raises:
            ValueError: There are no samples, or labels that are no classes, or masks of some
                dropouts only; nothing has changed then.
        """
        check_labels(self._recipe, x, labels, self._graph.output.shape[0] or 0)
        batch = Batch(as_input(self._model, x), np.asarray(labels), dict(masks) if masks else None)
        parts = [self._placed(part) for part in parts_of(batch, self._recipe.accumulate)]
        self._done += 1
        share = self._recipe.average_share(self._done) if self._average else None
        program = Program(self._graphdef, self._recipe, gradients, self._mesh)
        parameters, others, beside = self._network()
        whole = len(parts) == 1
        take: Any = step if whole else step_by_parts
        given = parts[0] if whole else parts
        parameters, moved, beside, sums, found = self._taken_from(
            take(program, parameters, others, beside, given, Pace(learning_rate, share))
        )
        self._optimizer, self._scale = beside.optimizer, beside.scale
        self._average = beside.average
        self._parameters.set(parameters)
        self._moved.set(moved)
        loss, correct = map(float, sums)
        counted = round(correct) if self._recipe.loss == "softmax" else None
        return StepResult(loss, self._by_name(found) if gradients else {}, counted)

    def _network(self) -> tuple[Any, ...]:
        """Return the parameters, the rest of the network, and the state of training.

        They are on the devices that compute.
        """
        others = self._moved.get(), self._rest.get()
        return self._parameters.get(), others, Beside(self._optimizer, self._scale, self._average)

    def _placed(self, batch: Batch) -> Batch:
        """Return a batch, or a part of one, on the devices that compute."""
        return batch

    def _taken_from(self, found: Any) -> Any:
        """Return what a step found as arrays that this process computes with."""
        return found

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Compute logits in inference mode, by the averages where there are any."""
        with replaced(self._model, self._graph, self._average):
            return predict(self._model, x)

    def moments(self) -> dict[str, Arrays]:
        kept = moments_in(self._optimizer)
        moments = {name: self._by_name(kept[name]) for name in self._recipe.rule.moments}
        averages = {name: to_canonical(name, array) for name, array in self._average.items()}
        return moments | ({AVERAGE: averages} if averages else {})

    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        check_moments(self._graph, self._recipe, moments)
        kept = moments_in(self._optimizer)
        trees = {name: _like(kept[name], moments[name]) for name in self._recipe.rule.moments}
        self._optimizer = with_moments(self._optimizer, trees, step)
        self._average = {
            name: from_canonical(name, moments[AVERAGE][name], array.dtype)
            for name, array in self._average.items()
        }
        self._done = step

    def weights(self) -> Arrays:
        return read(self._model, self._graph)

    def close(self) -> None:
        """Do nothing, as nothing is held."""

    def _by_name(self, state: Any) -> Arrays:
        """Return a tree of the form of the parameters as canonical arrays."""
        flat = {path: variable.get_value() for path, variable in nnx.to_flat_state(state)}
        names = [weight.name for weight in self._graph.weights if weight.trainable]
        return {name: to_canonical(name, flat[path_of(name)]) for name in names}


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def step(
    program: Program,
    parameters: Any,
    others: Others,
    beside: Beside,
    batch: Batch,
    pace: Pace,
) -> tuple[Any, ...]:
    """Take one step of a recipe.

    Args:
        parameters: What trains.
        others: What moves beside, and all else.
        beside: What is kept beside the network.

    Returns:
        The new parameters, the new state of what moves beside, what is kept now, the mean loss
        with the number of right answers, and the gradients if they are wanted.
    """
    found = differentiated(program, parameters, others, batch, beside.factor)
    return _moved_on(program, parameters, beside, found, pace)


def step_by_parts(
    program: Program,
    parameters: Any,
    others: Others,
    beside: Beside,
    parts: Sequence[Batch],
    pace: Pace,
) -> tuple[Any, ...]:
    """Take one step as :func:`step` does, of whose batch one part at a time is computed."""
    total, summed, (moved, rest) = sum(len(part.labels) for part in parts), None, others
    for part in parts:
        *found, moved = _of_part(program, parameters, (moved, rest), part, beside.factor)
        own = _weighed(len(part.labels) / total, *found)
        summed = own if summed is None else jax.tree.map(jnp.add, summed, own)
    assert summed is not None, "there is a part at least"
    return _taken(program, parameters, beside, (*summed, moved), pace)


def _weighed(share: float, loss: Any, right: Any, gradients: Any) -> tuple[Any, Any, Any]:
    """Return what a part adds to the loss, the number of right answers, and the gradients."""
    return share * loss, right, jax.tree.map(lambda gradient: share * gradient, gradients)


def _moved_on(
    program: Program, parameters: Any, beside: Beside, found: tuple[Any, ...], pace: Pace
) -> tuple[Any, ...]:
    """Move by what :func:`differentiated` found."""
    optimizer, scale = beside.optimizer, beside.scale
    loss, right, gradients, moved = found
    updates, new = optimizer_of(program.recipe, pace.rate).update(gradients, optimizer, parameters)
    taken = optax.apply_updates(parameters, updates), new
    if scale is not None:
        finite = all_finite(gradients)
        taken = jax.lax.cond(finite, lambda: taken, lambda: (parameters, optimizer))
        scale = scale.after(finite)
    parameters, optimizer = taken
    shown = gradients if program.gradients else None
    average = _taken_up(beside.average, pace.share, (parameters, moved))
    return parameters, moved, Beside(optimizer, scale, average), (loss, right), shown


_of_part = functools.partial(jax.jit, static_argnums=0)(
    lambda program, *given: differentiated(program, *given)
)
_taken = functools.partial(jax.jit, static_argnums=0, donate_argnums=2)(_moved_on)


def _taken_up(average: Mapping[str, Any], share: Any, states: tuple[Any, ...]) -> dict[str, Any]:
    """Let averages take up some of the arrays that are in states."""
    flat = [pair for state in states for pair in nnx.to_flat_state(state)]
    now = {path: variable.get_value() for path, variable in flat}
    return {
        name: old + (share * (now[path_of(name)] - old)).astype(old.dtype)
        for name, old in average.items()
    }


def differentiated(
    program: Program, parameters: Any, others: Others, batch: Batch, factor: Any
) -> tuple[Any, Any, Any, Any]:
    """Compute the mean loss, how many answers are right, the gradients, and what moves beside.

    Where the program has a mesh, that is done for the part of each of its devices, and joined.

    Args:
        factor: What the loss is multiplied by while it is differentiated.
    """
    count = len(batch.labels)

    def of_part(index: Any, part: Batch) -> tuple[Any, Any, Any, Any]:
        drawing = others if index is None else _apart(others, index)

        def loss_of(parameters: Any) -> tuple[Any, Any]:
            total, right, moved = forward(program, parameters, drawing, part)
            loss = total / count
            return loss * factor, (loss, right, moved)

        gradients, (loss, right, moved) = jax.grad(loss_of, has_aux=True)(parameters)
        return loss, right, jax.tree.map(lambda g: g / factor, gradients), moved

    if program.mesh is None:
        return of_part(None, batch)
    loss, right, gradients, moved = by_device(program.mesh, of_part, batch)
    sums = jax.tree.map(lambda x: x.sum(0), (loss, right, gradients))
    return *sums, jax.tree.map(lambda x: x.mean(0).astype(x.dtype), moved)


def forward(program: Program, parameters: Any, others: Others, batch: Batch) -> tuple[Any, ...]:
    """Compute the sum of samples' losses, how many are right, and what moves beside."""
    model = nnx.merge(program.graphdef, parameters, *others, copy=True)
    logits = model(batch.x, masks=batch.masks)
    total = losses(program.recipe, logits, batch.labels).sum()
    labels = batch.labels.argmax(-1) if program.recipe.has_shares else batch.labels
    right = logits.argmax(-1) == labels if labels.ndim == 1 else jnp.zeros(())
    return total, right.sum(), nnx.state(model, MOVED)


def _apart(others: Others, index: Any) -> Others:
    """Let the dropouts of each device draw otherwise."""
    moved, rest = others

    def folded(variable: Any) -> Any:
        if not isinstance(variable, nnx.RngKey):
            return variable
        return variable.replace(jax.random.fold_in(variable.get_value(), index))

    apart = jax.tree.map(folded, rest, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return moved, apart


def _like(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Make a tree of canonical arrays that has the form of another."""
    names: dict[Any, str] = {path_of(name): name for name in arrays}
    flat = [
        from_canonical(names[path], arrays[names[path]], old.dtype)
        for path, old in nnx.to_flat_state(tree)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), flat)
