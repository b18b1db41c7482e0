"""Builds a trained network with another head, and chooses which part of it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from densespec.building import accompanied, build, goes_with, origin_of, rebuilt
from densespec.network.catalogue import SpecLike, resolve
from densespec.network.graph import freeze, head_of, lower
from densespec.network.initial import initial_weights
from densespec.network.spec import DenseNetSpec
from densespec.weights.given import WeightsLike, fitted, opened, stated_spec
from densespec.weights.reading import ReadingOptions, takes_reading_options


@takes_reading_options
def transfer(
    spec: SpecLike | None = None,
    *,
    classes: int,
    backend: str,
    weights: WeightsLike,
    head_units: Sequence[int] = (),
    trainable_from: str | None = "head",
    seed: int = 0,
    **options: Any,
) -> Any:
    """Build a trained network with a new head; everything before the head is frozen.

    ``transfer("densenet169", classes=10, backend="jax", weights="densenet169.pth",
    head_units=(1024,))`` has Dense(1024, relu) and Dense(10) after the global pool;
    without ``head_units`` the classifier alone is new.

    Args:
        spec: The trained network, as :func:`densespec.build` takes it; None takes the weight
            file's.
        classes: The number of outputs of the new classifier.
        weights: The trained network's weights, as :func:`densespec.build` takes them. Their own
            head is left out.
        head_units: The units of dense layers with ReLU before the classifier.
        trainable_from: The first part that trains: ``"head"`` for the new layers alone,
            ``"block4"`` or another part to fine-tune from there on, None for everything.
        seed: The seed of the head's initial weights.
        options: Further arguments of :func:`densespec.build`.
        {reading}

    Raises:
        UnknownName: There is no such variant, backend or part.
        WeightsError: The weights do not fit the network before its head.
    """
    reading, options = ReadingOptions.taken(options)
    trained = None if spec is None else resolve(spec)
    with opened(weights, trained, reading) as given:
        network = (trained or stated_spec(given)).replace(classes=classes, head_units=head_units)
        network = network.replace(**reading.of_network())
        arrays = initial_weights(lower(network), seed)
        arrays |= fitted(lower(network, include_top=False), given)
        kept = goes_with(weights, given)
    model = build(
        network,
        backend=backend,
        weights=arrays,
        trainable_from=trained_part(trainable_from, network),
        **options,
    )
    return accompanied(model, kept)


def trained_part(trainable_from: str | None, spec: DenseNetSpec) -> str | None:
    """Name the part that trains; ``head`` is whatever follows the global pool."""
    if trainable_from != "head":
        return trainable_from
    return head_of(spec)


def train_from(model: Any, part: str | None) -> Any:
    """Build the same network with the same weights, training from another part on.

    Args:
        model: A model that densespec built; it stays as it is.
        part: The first part that trains, such as ``"block4"``; None for everything.

    Raises:
        UnknownName: The network has no such part.
    """
    origin = origin_of(model)
    graph = freeze(origin.graph, part or origin.graph.nodes[1].name)
    return rebuilt(model, replace(origin, graph=graph), trainable=False)
