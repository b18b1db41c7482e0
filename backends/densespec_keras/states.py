"""States how far a compiled model's training has come, so that any framework can continue it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from densespec.backends import Origin, with_mode
from densespec.errors import WeightsError
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.moments import OptimizerMoments, check_moments
from densespec.recipes.recipe import TrainingRecipe
from densespec.weights.checkpoint import TrainingState
from densespec.weights.stated.keras_network import StatedGraph
from densespec_keras import variables
from densespec_keras.inspecting import frozen_as, stated_graph
from densespec_keras.optimizers import RecipeOptimizer
from densespec_keras.running import formats_of


def training_state(model: Any, recipe: TrainingRecipe) -> TrainingState:
    """Say how far the training of a model has come that was compiled with densespec's optimizer.

    ``densespec.save(model, path, training=training_state(model, recipe))`` keeps it beside the
    weights: ``densespec train --resume`` goes on from there on any backend.

    Args:
        model: a model of :func:`densespec.build`, or one loaded from its ``.keras`` file.
        recipe: the recipe that it is trained by.

    Raises:
        WeightsError: densespec did not build the model, or it has another optimizer, or freezes
            other layers than leading ones.
    """
    origin, optimizer = _recognised(model), _optimizer_of(model)
    graph = _trained_graph(model, origin.graph)
    kept = moments_of(optimizer, variables.trainable(model, graph))
    moments = {moment: kept[moment] for moment in recipe.rule.moments if moment in kept}
    check_moments(graph, recipe, moments)
    return TrainingState(steps_of(optimizer), recipe, moments, graph.trainable_from)


def restore_training_state(model: Any, state: TrainingState) -> None:
    """Take up a run that was stopped: its moments, and the number of its next step.

    Weights are not part of the state: build or load the model with them.

    Args:
        model: a model that was compiled with ``optimizer_of(state.recipe)``.

    Raises:
        WeightsError: the state belongs to another network, or trains other parts of it; or as for
            :func:`training_state`. Nothing is changed then.
    """
    origin, optimizer = _recognised(model), _optimizer_of(model)
    graph = _trained_graph(model, origin.graph)
    check_moments(graph, state.recipe, state.moments)
    restore_moments(optimizer, variables.trainable(model, graph), state.moments, state.step)


def recognise(model: Any) -> Any:
    """Give a model the attribute ``densespec``, which ``.keras`` files do not keep; return it.

    Then ``densespec.save``, ``read_weights`` and all other functions for built models take it.

    Raises:
        WeightsError: densespec did not build it.
    """
    model.densespec = _recognised(model)
    return model


def slots(optimizer: Any, trained: Mapping[str, Any], kind: str) -> Arrays:
    """Return the arrays that an optimizer keeps for each variable, such as ``velocities``.

    Args:
        trained: the trained variables by canonical name.
    """
    kept = getattr(optimizer, kind)
    arrays = {
        name: variables.to_numpy(kept[optimizer._get_variable_index(variable)])
        for name, variable in trained.items()
    }
    return variables.canonical(arrays)


def moments_of(optimizer: RecipeOptimizer, trained: Mapping[str, Any]) -> dict[str, Arrays]:
    """Return the moments of every variable by canonical name, also before the first step."""
    return {kind: slots(optimizer, trained, kind) for kind in optimizer.kept}


def steps_of(optimizer: RecipeOptimizer) -> int:
    """Return how many steps an optimizer has taken, on one device or in step on several."""
    return int(variables.to_numpy(optimizer.iterations))


def restore_moments(
    optimizer: RecipeOptimizer, trained: Mapping[str, Any], moments: OptimizerMoments, step: int
) -> None:
    """Set the moments of variables by canonical name, which are known to fit, and the step."""
    for kind, arrays in moments.items():
        kept = getattr(optimizer, kind)
        for name, array in arrays.items():
            slot = kept[optimizer._get_variable_index(trained[name])]
            slot.assign(variables.from_canonical(name, array))
    optimizer._iterations.assign(step * (optimizer.gradient_accumulation_steps or 1))


def _optimizer_of(model: Any) -> RecipeOptimizer:
    """Return the optimizer that a model was compiled with, without Keras's scaling of the loss."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not isinstance(inner, RecipeOptimizer):
        raise WeightsError(
            f"the model's optimizer is {type(inner).__name__}, whose state means something else: "
            "compile with densespec_keras.optimizer_of(recipe)"
        )
    known = inner._trainable_variables_indices
    if {inner._var_key(variable) for variable in model.trainable_variables} != known.keys():
        raise WeightsError(
            "other layers train than when the model was compiled: compile it again first"
        )
    return inner


def recognised(model: Any) -> Origin:
    """Return what a model without the attribute ``densespec`` could have been built from.

    Raises:
        WeightsError: densespec did not build it.
    """
    stated = _stated(model)
    try:
        graph = frozen_as(model, stated)
    except WeightsError:  # what trains then stays with the layers
        graph = stated.graph
    return _origin_of(model, graph)


def _recognised(model: Any) -> Origin:
    origin = getattr(model, "densespec", None)
    if isinstance(origin, Origin):
        return origin
    return _origin_of(model, frozen_as(model, _stated(model)))


def _origin_of(model: Any, graph: Graph) -> Origin:
    return Origin(
        backend=with_mode(keras.config.backend(), getattr(model, "mode", None)),
        graph=graph,
        dtype=variables.layer_policy(model),
        data_format=formats_of(model).outer,
        name=model.name,
    )


def _stated(model: Any) -> StatedGraph:
    try:
        return stated_graph(model)
    except WeightsError as error:
        raise WeightsError(f"densespec did not build the model: {error}") from error


def _trained_graph(model: Any, graph: Graph) -> Graph:
    """Return the graph of a model, with the parts frozen whose layers are frozen.

    Raises:
        WeightsError: as for :func:`training_state`.
    """
    frozen = frozen_as(model, _stated(model))
    stated = graph.trainable_from
    same = stated is not None and _first_trained(graph) == _first_trained(frozen)
    return graph if same else frozen


def _first_trained(graph: Graph) -> str:
    return next(node.name for node in graph.nodes if node.weights and not node.frozen)
