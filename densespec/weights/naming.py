"""Whose names arrays have, and each array by its canonical name, and back by the layout's."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from densespec.errors import WeightsError, listed
from densespec.network.graph import Graph
from densespec.weights.layouts import Layout, from_canonical, layouts, to_canonical
from densespec.weights.tensors import Tensor, Tensors


def claimants(tensors: Tensors, metadata: Mapping[str, str]) -> list[Layout]:
    """Find the layouts that may have such names, the likeliest first.

    A layout whose program does one thing comes before one of which anything is true.

    Raises:
        WeightsError: No layout claims them, or several that are equally likely do.
    """
    claiming = [layout for layout in layouts().values() if layout.claims(tensors, metadata)]
    if not claiming:
        first = ", ".join(list(tensors)[:3]) or "none"
        raise WeightsError(
            f"no known layout (known: {', '.join(layouts())}). Its first arrays: {first}"
        )
    claiming.sort(key=lambda layout: not layout.implements)
    for one, other in itertools.pairwise(claiming):
        if bool(one.implements) == bool(other.implements):
            names = ", ".join(layout.name for layout in claiming)
            raise WeightsError(f"the layout could be any of {names}: say which")
    return claiming


def canonical_tensors(
    layout: Layout, container: str, graph: Graph, tensors: Tensors
) -> dict[str, Tensor]:
    """Give a network's tensors by canonical name, with canonical axes.

    Args:
        container: The kind of file that they have the names of.
        tensors: Those of the network by the layout's names, and no others.

    Raises:
        WeightsError: Some are missing, unexpected, or of another shape; names the first ones.
    """
    keys = layout.keys(graph, container)
    found, problems = {}, []
    for weight in graph.weights:
        key = keys[weight.name]
        if key not in tensors:
            problems.append(f"{key} is missing")
            continue
        tensor = found[weight.name] = to_canonical(weight.name, tensors[key], layout.axes)
        if tensor.shape != weight.shape:
            problems.append(
                f"{key} has shape {tensor.shape} ({weight.name}), but should have {weight.shape}"
            )
    expected = set(keys.values())
    problems += [f"{key} is unexpected" for key in tensors if key not in expected]
    if problems:
        raise WeightsError(f"its arrays do not fit the network ({layout.name}): {listed(problems)}")
    return found


def layout_tensors(
    layout: Layout, container: str, graph: Graph, tensors: Tensors
) -> dict[str, Tensor]:
    """Give everything that a layout's file of a network holds, by the names that it has there.

    Args:
        tensors: The network's, by canonical name.
    """
    named = {
        key: from_canonical(name, tensors[name], layout.axes)
        for name, key in layout.keys(graph, container).items()
    }
    return named | layout.constants(graph)
