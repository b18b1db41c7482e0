"""Names arrays canonically, and checks whether they fit a network.

The canonical name of an array is its node's name and its own: ``block1.layer3.conv2.kernel``. Its
canonical shape is (out, in, *window) for the kernel of a convolution and (out, in) for that of the
classifier. Every other array is a vector, mostly with one value for each channel.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from densespec.errors import WeightsError, listed
from densespec.network.graph import Graph, in_head, lower

Arrays = dict[str, np.ndarray]


def check_weights(graph: Graph, weights: Mapping[str, np.ndarray]) -> None:
    """Check names and shapes of a network's arrays.

    Raises:
        WeightsError: some arrays do not fit; the message names the first that are missing,
            unexpected or of the wrong shape.
    """
    expected = {weight.name: weight.shape for weight in graph.weights}
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unexpected" for name in weights if name not in expected]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, but should have {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if problems:
        raise WeightsError(f"weights do not fit the network: {listed(problems)}")


def select_weights(graph: Graph, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Take the arrays that a network needs: if it has no classifier, a head is left out, and if it
    gives outputs of its own, what comes behind the last of them.

    Raises:
        WeightsError: The other arrays do not fit the network; see :func:`check_weights`.
    """
    top, behind = graph.has_classifier, _behind(graph)
    selected = {
        name: array
        for name, array in arrays.items()
        if (top or not in_head(name)) and name not in behind
    }
    check_weights(graph, selected)
    return selected


def _behind(graph: Graph) -> set[str]:
    """Name the arrays behind the last value that a network gives, which it lacks."""
    if not graph.outputs:
        return set()
    own = {weight.name for weight in graph.weights}
    return {weight.name for weight in lower(graph.spec).weights} - own
