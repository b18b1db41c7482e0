"""Names each array of a network canonically from the layout's name, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping

from densespec.errors import WeightsError, bare, listed
from densespec.network.graph import Graph
from densespec.weights.layer_arrays import COLLECTIONS
from densespec.weights.layouts import Layout, from_canonical, to_canonical
from densespec.weights.tensors import Tensor, Tensors


def canonical_tensors(
    layout: Layout, keys: Mapping[str, str], graph: Graph, tensors: Tensors
) -> dict[str, Tensor]:
    """Return the tensors of a network, or of a part of one, by canonical name with canonical axes.

    Args:
        keys: The layout's name of each array of the network, by its canonical name.
        graph: The network, or the part.
        tensors: Tensors by the layout's names.

    Raises:
        WeightsError: Some are missing, or of another shape, or others lie among them; the message
            names the first ones.
    """
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
    known, roots = set(keys.values()), {_root(keys[weight.name]) for weight in graph.weights}
    problems += [
        f"{bare(name)} is unexpected"
        for name in tensors
        if layout.names_tell and name not in known and _root(name) in roots
    ]
    if problems:
        statistics = {keys[w.name] for w in graph.weights if ".running_" in w.name}
        scales = {keys[w.name] for w in graph.weights if w.short == "gamma"}
        advice = (
            "; it has no running statistics: if its norms are batch norms, save "
            "model.state_dict(), which has them, and not the parameters alone; if they are others, "
            f"say which ({say_norm(scaled=not scales.isdisjoint(tensors))})"
        )
        lost = bool(statistics) and statistics.isdisjoint(tensors)
        raise WeightsError(
            f"its arrays do not fit the network ({layout.name}): {listed(problems)}{advice * lost}"
        )
    return found


def say_norm(*, scaled: bool) -> str:
    """Return the options that say which norms a network has where no array tells.

    Args:
        scaled: Whether they have a scale, so that there are some.
    """
    none = "" if scaled else " or --set norm=none"
    return f"--set norm=instance or --set norm=group,norm_groups=8{none}, for example"


def _root(name: str) -> str:
    """Return the outermost part of a network that an array lies in, such as ``features``."""
    for collection in COLLECTIONS:
        name = name.removeprefix(collection)
    parts = name.split("/" if "/" in name else ".")
    return parts[1] if parts[0] == "layers" and len(parts) > 1 else parts[0]


def layout_tensors(
    layout: Layout, container: str, graph: Graph, tensors: Tensors
) -> dict[str, Tensor]:
    """Return everything that a layout's file of a network holds, by the names that it has there.

    Args:
        tensors: The network's, by canonical name.
    """
    named = {
        key: from_canonical(name, tensors[name], layout.axes)
        for name, key in layout.keys(graph, container).items()
    }
    return named | layout.constants(graph)
