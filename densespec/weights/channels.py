"""Adapts a network's weights to images with another number of channels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from densespec.errors import WeightsError
from densespec.network.graph import Graph, with_spec
from densespec.weights.tensors import Tensor, Tensors

KERNEL = "stem.conv.kernel"
RGB = 3


def fitted_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Fit the kernel of a first convolution to another number of channels.

    For one channel it is summed over its channels, so that a grey image gives what the same image
    in grey colours did. For more, its channels are repeated in turn, and scaled by the share that
    they had.

    Args:
        kernel: (out, in, *window).

    Returns:
        (out, channels, *window), in the dtype of the kernel.
    """
    wide = kernel.astype(np.float32) if kernel.dtype.itemsize < 4 else kernel
    had = kernel.shape[1]
    if channels == 1:
        return wide.sum(axis=1, keepdims=True).astype(kernel.dtype)
    repeated = np.take(wide, np.arange(channels) % had, axis=1)
    return (repeated * wide.dtype.type(had / channels)).astype(kernel.dtype)


def fitted_channels(
    graph: Graph, tensors: Tensors, channels: int
) -> tuple[Graph, dict[str, Tensor], tuple[str, ...]]:
    """Fit a network to images of another number of channels.

    Args:
        tensors: The network's, by canonical name.

    Returns:
        The network for that many channels, its tensors, and a note of what was done; what was
        given, without a note, if it takes as many.

    Raises:
        WeightsError: There is no rule for it.
    """
    had = graph.spec.in_channels
    if had == channels:
        return graph, dict(tensors), ()
    if graph.spec.stem_kind == "norm-relu-conv":
        raise WeightsError(
            f"weights for {had} channels can't be fitted to {channels}: the network normalises "
            "each channel of its input, and there is no rule for that"
        )
    fitted = with_spec(graph, graph.spec.replace(in_channels=channels))
    kernel = tensors[KERNEL]
    shape = (kernel.shape[0], channels, *kernel.shape[2:])
    new = Tensor(shape, kernel.dtype, lambda: fitted_kernel(kernel.read(), channels))
    return fitted, {**tensors, KERNEL: new}, (_told(had, channels),)


def fitted_arrays(
    arrays: Mapping[str, np.ndarray], channels: int
) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    """Fit arrays by canonical name, as :func:`fitted_channels` does tensors."""
    if KERNEL not in arrays or arrays[KERNEL].shape[1:2] in ((), (channels,)):
        return arrays, ()
    kernel = np.asarray(arrays[KERNEL])
    note = _told(kernel.shape[1], channels)
    return {**arrays, KERNEL: fitted_kernel(kernel, channels)}, (note,)


def _told(had: int, channels: int) -> str:
    """Make a note of what is done.

    Raises:
        WeightsError: There is no rule for these numbers of channels.
    """
    if channels != 1 and had not in (1, RGB):
        raise WeightsError(
            f"weights for {had} channels can't be fitted to {channels}: there is a rule for one "
            f"channel, and for weights of 1 or {RGB} channels"
        )
    how = "summed" if channels == 1 else f"repeated and scaled by {had}/{channels}"
    return f"the kernel of its first convolution, for {had} channels, is {how} for {channels}"
