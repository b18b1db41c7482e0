"""Names arrays in Keras's files of models within models as in one flat model.

Transfer learning puts a network into a Sequential or a functional model and adds dense layers with
any names. The layers whose kernels have two axes are the head, in the order in which they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from densespec.errors import WeightsError, listed
from densespec.weights.layouts import keras_names, renamed
from densespec.weights.layouts.keras_names import LayerName, numbered
from densespec.weights.tensors import Tensor, Tensors

VARIABLES = "/vars/"


def flat(layer_name: LayerName) -> Callable[[Tensors], dict[str, Tensor]]:
    """Make what normalises the names of a file, Keras 3's or a legacy one's.

    Args:
        layer_name: What the layer of each node is called in a legacy file.
    """

    def normalise(tensors: Tensors) -> dict[str, Tensor]:
        normal = keras_names.normalise(tensors)
        if any(VARIABLES in name for name in normal):
            return renamed(normal, _in_one_model(normal))
        return renamed(normal, _legacy(normal, layer_name))

    return normalise


def _in_one_model(tensors: Tensors) -> Callable[[str], str]:
    """Return the function that takes the models around layers out of Keras 3's names."""
    dense = {
        path: numbered("layers/dense", rank) for rank, path in enumerate(_dense_paths(tensors))
    }

    def rename(name: str) -> str:
        path, variables, variable = name.rpartition(VARIABLES)
        if not variables or keras_names.is_bookkeeping(name):
            return name
        parent, _, layer = path.rpartition("/")
        inside = parent.endswith("/layers")
        return f"{dense.get(path, f'layers/{layer}' if inside else path)}{VARIABLES}{variable}"

    return rename


def _dense_paths(tensors: Tensors) -> list[str]:
    """Return the paths of dense layers, those in the innermost models first.

    Raises:
        WeightsError: They are in several models, and their shapes leave the order open.
    """
    kernels = {
        name.rpartition(VARIABLES)[0]: tensor.shape
        for name, tensor in tensors.items()
        if name.endswith(f"{VARIABLES}0")
        and len(tensor.shape) == 2
        and not keras_names.is_bookkeeping(name)
    }
    parents = {path.rpartition("/")[0] for path in kernels}
    if len(parents) > 1 and any(features == units for features, units in kernels.values()):
        raise WeightsError(
            f"the order of its dense layers can't be told: {listed(sorted(kernels))} are in "
            "several models, and one has as many features as units"
        )
    return sorted(kernels, key=_innermost_first)


def _innermost_first(path: str) -> tuple[int, str, int]:
    name, _, number = path.rpartition("_")
    counted = (name, int(number)) if number.isdigit() else (path, 0)
    return (-path.count("/"), *counted)


def _legacy(tensors: Tensors, layer_name: LayerName) -> Callable[[str], str]:
    """Return the function that takes the models out of legacy names, and names heads as usual."""
    layers = [
        name.removesuffix("/kernel")
        for name, tensor in tensors.items()
        if name.endswith("/kernel") and len(tensor.shape) == 2
    ]
    usual = [layer_name(f"head{number}.dense") for number in range(1, len(layers))]
    head: Mapping[str, str] = dict(zip(layers, [*usual, layer_name("classifier")], strict=False))

    def rename(name: str) -> str:
        layer, _, variable = name.rpartition("/")
        return f"{head.get(layer, layer.rpartition('/')[2])}/{variable}"

    return rename
