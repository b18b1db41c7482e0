"""Adapts a network's weights to inputs with other dimensions, such as volumes for images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from densespec.network.graph import Graph, with_spec
from densespec.weights.tensors import Tensor, Tensors

SMALLEST = 3
"""A convolution's kernel has at least this many axes; a dense layer's kernel has two."""


def fitted_window(kernel: np.ndarray, dims: int) -> np.ndarray:
    """Fit the kernel of a convolution to another number of dimensions.

    New axes come before the others: the kernel is repeated along each and divided by its extent, so
    that an input that is constant along them gives what it gave without them. The first axes go
    by summing over them, which is the same backwards.

    Args:
        kernel: (out, in, *window), with a window as wide in every dimension.
        dims: The number of dimensions of the window that is wanted.

    Returns:
        (out, in, *window), in the dtype of the kernel.
    """
    wide = kernel.astype(np.float32) if kernel.dtype.itemsize < 4 else kernel
    extent = wide.shape[-1]
    while wide.ndim - 2 > dims:
        wide = wide.sum(axis=2)
    while wide.ndim - 2 < dims:
        wide = np.repeat(wide[:, :, None], extent, axis=2) / wide.dtype.type(extent)
    return wide.astype(kernel.dtype)


def fitted_dimensions(
    graph: Graph, tensors: Tensors, dims: int
) -> tuple[Graph, dict[str, Tensor], tuple[str, ...]]:
    """Fit a network to inputs of another number of dimensions.

    Args:
        tensors: The network's, by canonical name.

    Returns:
        The network for that many dimensions and any size, its tensors, and a note of what was
        done; what was given, without a note, if it takes as many.
    """
    had = graph.spatial_dims
    if had == dims:
        return graph, dict(tensors), ()
    fitted = with_spec(graph, graph.spec.replace(spatial_dims=dims))
    new = {name: _fitted(tensor, dims) for name, tensor in tensors.items()}
    return fitted, new, (_told(had, dims),)


def fitted_arrays(
    arrays: Mapping[str, np.ndarray], dims: int
) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    """Fit arrays by canonical name, as :func:`fitted_dimensions` does tensors."""
    found = (np.ndim(array) - 2 for array in arrays.values() if np.ndim(array) >= SMALLEST)
    had = next(found, dims)
    if had == dims:
        return arrays, ()
    tensors = {name: Tensor.of(np.asarray(array)) for name, array in arrays.items()}
    new = {name: _fitted(tensor, dims).read() for name, tensor in tensors.items()}
    return new, (_told(had, dims),)


def _fitted(tensor: Tensor, dims: int) -> Tensor:
    if len(tensor.shape) < SMALLEST:
        return tensor
    shape = (*tensor.shape[:2], *(tensor.shape[-1],) * dims)
    return Tensor(shape, tensor.dtype, lambda: fitted_window(tensor.read(), dims))


def _told(had: int, dims: int) -> str:
    """Make a note of what is done."""
    how = "repeated along new axes and divided by the extent"
    if dims < had:
        how = "summed over their first axes"
    return f"the kernels of its convolutions, of {had} dimensions, are {how} for {dims}"
