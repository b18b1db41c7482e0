"""Lists deviations in which given weights end up as others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from densespec.network.arrays import Arrays
from densespec.reference.kernels import Array
from densespec_conformance.deviations.deviation import Change, Deviation, NotApplicable
from densespec_conformance.deviations.variant import Variant

BFLOAT16_BITS = 16


def _each(suffix: str, load: Callable[[Array], Array]) -> Change:
    """Change every array whose name ends so; arrays that change their shape are left alone."""

    def change(variant: Variant) -> Variant:
        weights: Arrays = {}
        for name, array in variant.weights.items():
            loaded = load(array) if name.endswith(suffix) else array
            weights[name] = loaded if loaded.shape == array.shape else array
        return _changed(variant, weights)

    return change


def _swapped(first: str, second: str) -> Change:
    def change(variant: Variant) -> Variant:
        other = {first: second, second: first}
        weights = {}
        for name in variant.weights:
            node, _, short = name.rpartition(".")
            weights[name] = variant.weights[f"{node}.{other.get(short, short)}"]
        return _changed(variant, weights)

    return change


def _changed(variant: Variant, weights: Arrays) -> Variant:
    known = variant.weights
    if all(np.array_equal(weights[name], known[name]) for name in known):
        raise NotApplicable
    return replace(variant, weights=weights)


def _sides(kernel: Array) -> Array:
    return np.swapaxes(kernel, 2, 3) if kernel.ndim > 3 else kernel


def _in_and_out(kernel: Array) -> Array:
    return np.swapaxes(kernel, 0, 1)


def _misread(kernel: Array) -> Array:
    """Take values in the order (out, in, *window) for the order (*window, in, out)."""
    out, inner, *window = kernel.shape
    axes = range(kernel.ndim)
    return kernel.reshape(*window, inner, out).transpose(axes[-1], axes[-2], *axes[:-2])


def _reshaped(kernel: Array) -> Array:
    """Reshape an array of the order (*window, in, out) to (out, in, *window)."""
    axes = range(kernel.ndim)
    return np.ascontiguousarray(kernel.transpose(*axes[2:], 1, 0)).reshape(kernel.shape)


def _flipped(kernel: Array) -> Array:
    return np.flip(kernel, tuple(range(2, kernel.ndim)))


def _rounded(dtype: str) -> Callable[[Array], Array]:
    return lambda array: array.astype(dtype).astype(np.float64)


def to_bfloat16(array: Array) -> Array:
    """Round to the nearest values of 8 bits, ties to even."""
    bits = array.astype(np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> BFLOAT16_BITS) & 1)
    return (rounded & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


DEVIATIONS = (
    Deviation(
        "gamma-and-beta-swapped",
        "gamma and beta are exchanged",
        "arrays assigned by position",
        _swapped("gamma", "beta"),
    ),
    Deviation(
        "mean-and-variance-swapped",
        "running mean and running variance are exchanged",
        "arrays assigned by position",
        _swapped("running_mean", "running_variance"),
    ),
    Deviation(
        "gamma-not-loaded",
        "every gamma is 1",
        "scale=False, a name not found",
        _each("gamma", np.ones_like),
    ),
    Deviation(
        "beta-not-loaded",
        "every beta is 0",
        "center=False, a name not found",
        _each("beta", np.zeros_like),
    ),
    Deviation(
        "running-mean-not-loaded",
        "every running mean is 0",
        "buffers left out of the file",
        _each("running_mean", np.zeros_like),
    ),
    Deviation(
        "running-variance-not-loaded",
        "every running variance is 1",
        "buffers left out of the file",
        _each("running_variance", np.ones_like),
    ),
    Deviation(
        "statistics-not-loaded",
        "running statistics are those of a new network",
        "parameters() saved instead of state_dict()",
        lambda variant: _each("running_variance", np.ones_like)(
            _each("running_mean", np.zeros_like)(variant)
        ),
    ),
    Deviation(
        "variance-is-deviation",
        "running variances are taken for deviations",
        "formats that keep the deviation, or its inverse",
        _each("running_variance", np.square),
    ),
    Deviation(
        "classifier-bias-not-loaded",
        "the classifier's bias is 0",
        "use_bias=False",
        _each("classifier.bias", np.zeros_like),
    ),
    Deviation(
        "bias-not-loaded", "every bias is 0", "a name not found", _each("bias", np.zeros_like)
    ),
    Deviation(
        "kernels-turned",
        "height and width of kernels are exchanged",
        "(w, h) for (h, w)",
        _each("kernel", _sides),
    ),
    Deviation(
        "stem-kernel-turned",
        "height and width of the stem's kernel are exchanged",
        "(w, h) for (h, w)",
        _each("stem.conv.kernel", _sides),
    ),
    Deviation(
        "kernels-transposed",
        "inputs and outputs of kernels are exchanged where both are as many",
        "a missing transpose, which no shape shows",
        _each("kernel", _in_and_out),
    ),
    Deviation(
        "kernels-misread",
        "kernels are read in the order (height, width, in, out)",
        "reshape for transpose",
        _each("kernel", _misread),
    ),
    Deviation(
        "classifier-misread",
        "the classifier's kernel is read in the order (in, out)",
        "reshape for transpose",
        _each("classifier.kernel", _misread),
    ),
    Deviation(
        "classifier-reshaped",
        "the classifier's kernel of the order (in, out) is reshaped, not transposed",
        "Keras's arrays in PyTorch's shape",
        _each("classifier.kernel", _reshaped),
    ),
    Deviation(
        "kernels-reshaped",
        "kernels of the order (height, width, in, out) are reshaped, not transposed",
        "Keras's arrays in PyTorch's shape",
        _each("kernel", _reshaped),
    ),
    Deviation(
        "kernels-loaded-flipped",
        "kernels are flipped",
        "Theano's convention",
        _each("conv.kernel", _flipped),
    ),
    Deviation(
        "stem-kernel-reversed",
        "the stem's kernel takes the input's channels in reverse (BGR)",
        "Caffe, OpenCV",
        _each("stem.conv.kernel", lambda kernel: kernel[:, ::-1]),
    ),
    Deviation(
        "weights-in-float32",
        "weights are kept in float32",
        "a file or a variable of that type",
        _each("", _rounded("float32")),
    ),
    Deviation(
        "weights-in-float16",
        "weights are kept in float16",
        "a file or a variable of that type",
        _each("", _rounded("float16")),
    ),
    Deviation(
        "weights-in-bfloat16",
        "weights are kept in bfloat16",
        "a file or a variable of that type",
        _each("", to_bfloat16),
    ),
)
