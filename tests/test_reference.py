"""The reference: each op against loops, each gradient against differences, training by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from densespec.errors import UnknownName, WeightsError
from densespec.network import ops
from densespec.network.graph import Graph, freeze, lower
from densespec.network.initial import initial_weights
from densespec.network.ops import (
    Activation,
    Affine,
    AvgPool,
    BatchNorm,
    BlurPool,
    Clip,
    Concat,
    Conv,
    Dense,
    Dropout,
    GlobalPool,
    GroupNorm,
    MaxPool,
    Pads,
    PRelu,
    Relu,
    Sigmoid,
    Softmax,
)
from densespec.network.spec import ACTIVATION_KINDS, STEM_KINDS, DenseNetSpec
from densespec.recipes.moments import initial_moments, moving
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.backend import BACKEND
from densespec.reference.kernels import KERNELS, Context, OpError
from densespec.reference.losses import (
    binary_cross_entropy,
    cross_entropy,
    loss_and_slope,
    squared_error,
)
from densespec.reference.model import ReferenceModel
from tests.strategies import tiny

Array = np.ndarray

EXACT: dict[str, Any] = {"rtol": 1e-13, "atol": 1e-14}
"""For two orders of the same few float64 sums."""

STEP = 1e-6
"""Of central differences: their error is near STEP**2 by truncation, 1e-16 / STEP by rounding."""

DIFFERENCES: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-8}


def _random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def _distinct(*shape: int, seed: int = 0) -> Array:
    """Numbers a tenth apart, none of them zero, about half of them negative."""
    count = math.prod(shape)
    steps = np.random.default_rng([seed, *shape]).permutation(count) - count // 2
    return (steps * 0.1 + 0.05).reshape(shape)


# Ops, one loop for each index


def _positions(size: tuple[int, ...], window: tuple[int, ...], stride: int) -> Iterator[Any]:
    """Pairs of an output position and the input position that its window starts at."""
    counts = [(n - width) // stride + 1 for n, width in zip(size, window, strict=True)]
    for position in itertools.product(*map(range, counts)):
        yield position, tuple(stride * p for p in position)


def _at(x: Array, sample: int, channel: int, position: tuple[int, ...], pads: Pads) -> float | None:
    """The value at a position of the padded input; None where it is padding."""
    inner = tuple(p - before for p, (before, _) in zip(position, pads, strict=True))
    inside = all(0 <= p < n for p, n in zip(inner, x.shape[2:], strict=True))
    return float(x[(sample, channel, *inner)]) if inside else None


def _padded_size(x: Array, pads: Pads) -> tuple[int, ...]:
    return tuple(n + sum(pad) for n, pad in zip(x.shape[2:], pads, strict=True))


def _conv_by_loops(op: Conv, x: Array, kernel: Array, bias: Array | None, pads: Pads) -> Array:
    values = {}
    for position, start in _positions(_padded_size(x, pads), op.window, op.stride):
        for sample, out in itertools.product(range(len(x)), range(op.filters)):
            total = 0.0 if bias is None else float(bias[out])
            for channel in range(op.in_channels):
                for place in itertools.product(*map(range, op.window)):
                    where = tuple(s + p for s, p in zip(start, place, strict=True))
                    value = _at(x, sample, channel, where, pads)
                    total += float(kernel[(out, channel, *place)]) * (value or 0.0)
            values[(sample, out, *position)] = total
    return _filled(values)


def _pool_by_loops(
    op: MaxPool | AvgPool, x: Array, pads: Pads, join: Callable[[list[float]], float]
) -> Array:
    values = {}
    for position, start in _positions(_padded_size(x, pads), op.window, op.stride):
        for sample, channel in itertools.product(*map(range, x.shape[:2])):
            window = []
            for place in itertools.product(*map(range, op.window)):
                where = tuple(s + p for s, p in zip(start, place, strict=True))
                window.append(_at(x, sample, channel, where, pads))
            values[(sample, channel, *position)] = join([v for v in window if v is not None])
    return _filled(values)


def _filled(values: Mapping[tuple[int, ...], float]) -> Array:
    array = np.full([1 + max(axis) for axis in zip(*values, strict=True)], np.nan)
    for index, value in values.items():
        array[index] = value
    return array


def _forward(
    op: ops.Op, *xs: Array, training: bool = False, weights: Mapping[str, Array] | None = None
) -> Array:
    ctx = Context("node", weights or {}, training)
    return KERNELS[type(op)].forward(op, ctx, *xs)


@dataclasses.dataclass(frozen=True)
class Sliding:
    """A window that slides, by its place in a test's name."""

    size: tuple[int, ...]
    window: tuple[int, ...]
    stride: int
    padding: ops.Padding
    pads: Pads
    """What ``padding`` comes to at this size."""


SLIDING = {
    "1-D": Sliding((7,), (3,), 1, ((0, 0),), ((0, 0),)),
    "1-D, strided and padded more at the end": Sliding((8,), (3,), 2, ((0, 1),), ((0, 1),)),
    "1-D, strided past the end": Sliding((8,), (2,), 3, ((0, 0),), ((0, 0),)),
    "2-D": Sliding((4, 5), (3, 2), 1, ((0, 0),) * 2, ((0, 0),) * 2),
    "2-D, symmetric": Sliding((4, 5), (3, 3), 1, ((1, 1),) * 2, ((1, 1),) * 2),
    "2-D, strided, padded another way on each side": Sliding(
        (5, 6), (3, 4), 2, ((0, 2), (2, 1)), ((0, 2), (2, 1))
    ),
    "2-D, 'same', stride 1, even": Sliding((4, 5), (2, 2), 1, "same", ((0, 1),) * 2),
    "2-D, 'same', stride 2, even size": Sliding((6, 8), (3, 3), 2, "same", ((0, 1),) * 2),
    "2-D, 'same', stride 2, odd size": Sliding((5, 7), (3, 3), 2, "same", ((1, 1),) * 2),
    "2-D, 'same', stride above the window": Sliding((5, 6), (1, 2), 3, "same", ((0, 0),) * 2),
    "3-D": Sliding((3, 4, 3), (2, 3, 2), 1, ((0, 0), (1, 1), (1, 0)), ((0, 0), (1, 1), (1, 0))),
    "3-D, strided": Sliding((4, 3, 5), (3, 3, 3), 2, "same", ((0, 1), (1, 1), (1, 1))),
}

sliding = pytest.mark.parametrize("case", SLIDING.values(), ids=SLIDING)


def _conv(case: Sliding, *, bias: bool) -> tuple[Conv, Array, dict[str, Array]]:
    op = Conv(2, 3, case.window, case.stride, case.padding, bias)
    weights = {"kernel": _random(3, 2, *case.window)} | ({"bias": _random(3)} if bias else {})
    return op, _random(2, 2, *case.size), weights


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@sliding
def test_convolution_is_its_sum(case: Sliding, bias: bool) -> None:
    op, x, weights = _conv(case, bias=bias)
    expected = _conv_by_loops(op, x, weights["kernel"], weights.get("bias"), case.pads)
    y = _forward(op, x, weights=weights)
    assert y.shape[1:] == op.output(x.shape[1:])
    np.testing.assert_allclose(y, expected, **EXACT)


def test_convolution_does_not_flip_its_kernel() -> None:
    op = Conv(1, 1, (2,), 1, ((0, 0),), bias=False)
    y = _forward(op, np.array([[[1.0, 10.0, 100.0]]]), weights={"kernel": np.array([[[1.0, 2.0]]])})
    np.testing.assert_array_equal(y, [[[21.0, 210.0]]])


@sliding
def test_max_pool_is_the_largest_of_its_window(case: Sliding) -> None:
    op, x = MaxPool(case.window, case.stride, case.padding), _random(2, 3, *case.size)
    y = _forward(op, x)
    assert y.shape[1:] == op.output(x.shape[1:])
    np.testing.assert_array_equal(y, _pool_by_loops(op, x, case.pads, max))


@sliding
def test_max_pool_of_negative_numbers_never_sees_its_padding(case: Sliding) -> None:
    op, x = MaxPool(case.window, case.stride, case.padding), -1 - np.abs(_random(2, 3, *case.size))
    y = _forward(op, x)
    assert y.max() <= -1
    np.testing.assert_array_equal(y, _pool_by_loops(op, x, case.pads, max))


UNPADDED = {name: case for name, case in SLIDING.items() if not np.any(case.pads)}

unpadded = pytest.mark.parametrize("case", UNPADDED.values(), ids=UNPADDED)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


@unpadded
def test_average_pool_is_the_mean_of_its_window(case: Sliding) -> None:
    op, x = AvgPool(case.window, case.stride), _random(2, 3, *case.size)
    y = _forward(op, x)
    assert y.shape[1:] == op.output(x.shape[1:])
    np.testing.assert_allclose(y, _pool_by_loops(op, x, case.pads, _mean), **EXACT)


@pytest.mark.parametrize("size", [(5,), (2, 7), (4, 3, 2)], ids=["1-D", "2-D", "3-D"])
def test_blur_pool_is_a_binomial_mean_of_a_mirrored_input(size: tuple[int, ...]) -> None:
    op, x = BlurPool((3,) * len(size), 2), _random(2, 3, *size)
    expected = np.zeros((2, 3, *op.output((3, *size))[1:]))  # type: ignore[misc]
    for position in np.ndindex(*expected.shape[2:]):
        for place in itertools.product((-1, 0, 1), repeat=len(size)):
            mirrored = (abs(2 * p + q) for p, q in zip(position, place, strict=True))
            where = tuple(
                i if i < n else 2 * n - 2 - i for i, n in zip(mirrored, size, strict=True)
            )
            factor = math.prod(0.5 if q == 0 else 0.25 for q in place)
            expected[(..., *position)] += factor * x[(..., *where)]
    np.testing.assert_allclose(_forward(op, x), expected, **EXACT)


SIZES = pytest.mark.parametrize("size", [(5,), (2, 3), (2, 3, 2)], ids=["1-D", "2-D", "3-D"])


@SIZES
@pytest.mark.parametrize(
    ("kind", "joins"),
    [
        ("avg", [_mean]),
        ("max", [max]),
        ("avgmax", [lambda plane: (_mean(plane) + max(plane)) / 2]),
        ("catavgmax", [_mean, max]),
    ],
)
def test_global_pool_joins_all_positions(
    kind: Any, joins: list[Callable[[list[float]], float]], size: tuple[int, ...]
) -> None:
    x = _random(2, 3, *size)
    planes = [[list(map(float, plane.flat)) for plane in sample] for sample in x]
    expected = [[join(plane) for join in joins for plane in sample] for sample in planes]
    y = _forward(GlobalPool(kind), x)
    assert y.shape[1:] == GlobalPool(kind).output(x.shape[1:])
    np.testing.assert_allclose(y, expected, **EXACT)


@SIZES
def test_concat_puts_channels_in_the_order_of_its_inputs(size: tuple[int, ...]) -> None:
    xs = [_random(2, channels, *size, seed=channels) for channels in (1, 3, 2)]
    y = _forward(Concat(), *xs)
    assert y.shape == (2, 6, *size)
    channels = [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    for out, (source, channel) in enumerate(channels):
        np.testing.assert_array_equal(y[:, out], xs[source][:, channel])


def test_relu_keeps_what_is_positive() -> None:
    x = np.array([[-2.0, -0.0, 0.0, 3.0]])
    np.testing.assert_array_equal(_forward(Relu(), x), [[0.0, 0.0, 0.0, 3.0]])


def test_linear_layer_is_its_sum() -> None:
    x, kernel, bias = _random(2, 4), _random(3, 4), _random(3)
    expected = [
        [bias[u] + sum(kernel[u, f] * x[n, f] for f in range(4)) for u in range(3)]
        for n in range(2)
    ]
    np.testing.assert_allclose(
        _forward(Dense(4, 3), x, weights={"kernel": kernel, "bias": bias}), expected, **EXACT
    )
    np.testing.assert_allclose(
        _forward(Dense(4, 3, bias=False), x, weights={"kernel": kernel}), expected - bias, **EXACT
    )


def test_softmax_is_the_share_of_exponentials() -> None:
    x = _random(2, 4)
    expected = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in x]
    np.testing.assert_allclose(_forward(Softmax(), x), expected, **EXACT)


def test_softmax_of_large_numbers_stays_finite() -> None:
    y = _forward(Softmax(), np.array([[1000.0, 1000.0], [-1000.0, 1000.0]]))
    np.testing.assert_array_equal(y, [[0.5, 0.5], [0.0, 1.0]])


def test_sigmoid_is_the_logistic_function_of_each_number() -> None:
    x = _random(2, 4)
    expected = [[1 / (1 + math.exp(-v)) for v in row] for row in x]
    np.testing.assert_allclose(_forward(Sigmoid(), x), expected, **EXACT)


def test_sigmoid_of_large_numbers_stays_finite() -> None:
    y = _forward(Sigmoid(), np.array([[1000.0, -1000.0, 0.0]]))
    np.testing.assert_array_equal(y, [[1.0, 0.0, 0.5]])


# Batch norm


def _norm(*, momentum: float = 0.25, unbiased: bool = True) -> BatchNorm:
    return BatchNorm(3, 0.01, momentum, unbiased)


def _norm_weights() -> dict[str, Array]:
    return {
        "gamma": _random(3, seed=1),
        "beta": _random(3, seed=2),
        "running_mean": _random(3, seed=3),
        "running_variance": np.abs(_random(3, seed=4)) + 0.5,
    }


def _values(x: Array, channel: int) -> list[float]:
    return [float(value) for value in x[:, channel].flat]


def _variance(values: list[float], divisor: int) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / divisor


@SIZES
def test_batch_norm_in_inference_uses_running_statistics(size: tuple[int, ...]) -> None:
    x, weights = _random(2, 3, *size), _norm_weights()
    y = _forward(_norm(), x, weights=weights)
    for c in range(3):
        gamma, beta, mean, variance = (float(weights[name][c]) for name in weights)
        expected = gamma * (x[:, c] - mean) / math.sqrt(variance + 0.01) + beta
        np.testing.assert_allclose(y[:, c], expected, **EXACT)


@pytest.mark.parametrize("unbiased", [True, False], ids=["unbiased", "biased"])
@SIZES
def test_batch_norm_in_training_divides_by_n_whatever_it_stores(
    size: tuple[int, ...], unbiased: bool
) -> None:
    x, weights = _random(2, 3, *size), _norm_weights()
    y = _forward(_norm(unbiased=unbiased), x, training=True, weights=weights)
    for c in range(3):
        values = _values(x, c)
        deviation = math.sqrt(_variance(values, len(values)) + 0.01)
        normalised = (x[:, c] - _mean(values)) / deviation
        expected = weights["gamma"][c] * normalised + weights["beta"][c]
        np.testing.assert_allclose(y[:, c], expected, **EXACT)


@pytest.mark.parametrize("unbiased", [True, False], ids=["unbiased", "biased"])
@SIZES
def test_batch_norm_moves_its_running_statistics(size: tuple[int, ...], unbiased: bool) -> None:
    x, weights = _random(2, 3, *size), _norm_weights()
    before = {name: array.copy() for name, array in weights.items()}
    ctx = Context("node", weights, training=True)
    KERNELS[BatchNorm].forward(_norm(momentum=0.25, unbiased=unbiased), ctx, x)
    count = x.size // 3
    for c in range(3):
        values = _values(x, c)
        mean, variance = _mean(values), _variance(values, count - 1 if unbiased else count)
        old_mean, old_variance = before["running_mean"][c], before["running_variance"][c]
        moved = ctx.statistics["running_mean"][c], ctx.statistics["running_variance"][c]
        expected = 0.75 * old_mean + 0.25 * mean, 0.75 * old_variance + 0.25 * variance
        np.testing.assert_allclose(moved, expected, **EXACT)
    for name, array in weights.items():
        np.testing.assert_array_equal(array, before[name])


def test_batch_norm_leaves_no_statistics_in_inference() -> None:
    ctx = Context("node", _norm_weights())
    KERNELS[BatchNorm].forward(_norm(), ctx, _random(2, 3, 4))
    assert ctx.statistics == {}


# Norms of a sample


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_is_over_the_channels_of_its_group(affine: bool) -> None:
    op, x = GroupNorm(6, 3, 1e-2, affine), _random(2, 6, 4, 3)
    weights = {"gamma": _random(6, seed=1), "beta": _random(6, seed=2)} if affine else {}
    y = _forward(op, x, weights=weights)
    for sample, channel in itertools.product(range(2), range(6)):
        first = channel - channel % 2
        values = x[sample, first : first + 2].ravel().tolist()
        mean, variance = _mean(values), _variance(values, len(values))
        expected = (x[sample, channel] - mean) / math.sqrt(variance + 1e-2)
        if affine:
            expected = weights["gamma"][channel] * expected + weights["beta"][channel]
        np.testing.assert_allclose(y[sample, channel], expected, **EXACT)


def test_group_norm_takes_a_batch_of_no_samples() -> None:
    op, x = GroupNorm(6, 3, 1e-2, affine=False), _random(0, 6, 4, 3)
    assert _forward(op, x).shape == x.shape


def test_o9_wants_several_values_in_a_group() -> None:
    with pytest.raises(OpError, match=r"node: one value per group has no deviation \[O9\]"):
        _forward(GroupNorm(2, 2, 1e-5, affine=False), _random(2, 2, 1))


# Activations

ACTIVATIONS: dict[str, Callable[[float], float]] = {
    "leaky-relu": lambda x: x if x > 0 else 0.2 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * statistics.NormalDist().cdf(x),
    "gelu-tanh": lambda x: x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * _bent(x))),
    "relu6": lambda x: min(max(x, 0), 6),
}
"""Each by another formula than the reference's."""


def _bent(x: float) -> float:
    return x + 0.044715 * x**3


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_an_activation_by_its_formula(kind: Any) -> None:
    x = _distinct(2, 30, 4)
    expected = np.vectorize(ACTIVATIONS[kind], otypes=[float])(x)
    np.testing.assert_allclose(_forward(Activation(kind, 0.2), x), expected, rtol=1e-12, atol=1e-14)


def test_every_activation_has_a_formula_above() -> None:
    assert {"relu", "prelu", *ACTIVATIONS} == set(ACTIVATION_KINDS)


def test_prelu_has_its_slope_below_zero() -> None:
    y = _forward(PRelu(), np.array([[-2.0, 0.0, 3.0]]), weights={"slope": np.array([0.3])})
    np.testing.assert_allclose(y, [[-0.6, 0.0, 3.0]], **EXACT)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_an_activation_keeps_what_is_no_number(kind: Any) -> None:
    assert np.isnan(_forward(Activation(kind, 0.2), np.array([[np.nan]]))).all()


# Dropout


def test_dropout_in_training_keeps_by_its_mask_and_scales() -> None:
    x, mask = _random(2, 3, 4), (_random(2, 3, 4, seed=1) > 0).astype(float)
    ctx = Context("node", training=True, mask=mask)
    y = KERNELS[Dropout].forward(Dropout(0.2), ctx, x)
    np.testing.assert_allclose(y, np.where(mask == 1, x / 0.8, 0.0), **EXACT)


def test_dropout_in_inference_ignores_its_mask() -> None:
    x = _random(2, 3, 4)
    ctx = Context("node", mask=np.zeros_like(x))
    np.testing.assert_array_equal(KERNELS[Dropout].forward(Dropout(0.2), ctx, x), x)
    ((dx,), weights) = KERNELS[Dropout].backward(Dropout(0.2), ctx, x + 1, x)
    np.testing.assert_array_equal(dx, x + 1)
    assert weights == {}


# Gradients of ops against central differences


def _difference(f: Callable[[], Array], dy: Array, of: Array) -> Array:
    """d(sum of dy * f()) / d(of), one entry after the other."""
    slope = np.zeros_like(of)
    for index in np.ndindex(of.shape):
        kept = of[index]
        of[index] = kept + STEP
        above = f()
        of[index] = kept - STEP
        below = f()
        of[index] = kept
        slope[index] = (dy * (above - below)).sum() / (2 * STEP)
    return slope


def _check_gradients(
    op: ops.Op,
    xs: list[Array],
    weights: dict[str, Array] | None = None,
    *,
    training: bool = False,
    mask: Array | None = None,
) -> None:
    ctx = Context("node", weights or {}, training, mask)
    kernel = KERNELS[type(op)]
    dy = _random(*kernel.forward(op, ctx, *xs).shape, seed=9)
    dxs, gradients = kernel.backward(op, ctx, dy, *xs)
    assert len(dxs) == len(xs)
    for x, dx in zip(xs, dxs, strict=True):
        expected = _difference(lambda: kernel.forward(op, ctx, *xs), dy, x)
        np.testing.assert_allclose(dx, expected, **DIFFERENCES)
    assert set(gradients) == set(ctx.weights) - {"running_mean", "running_variance"}
    for name, gradient in gradients.items():
        weight = ctx.weights[name]
        expected = _difference(lambda: kernel.forward(op, ctx, *xs), dy, weight)
        np.testing.assert_allclose(gradient, expected, **DIFFERENCES)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@sliding
def test_gradients_of_convolution(case: Sliding, bias: bool) -> None:
    op, x, weights = _conv(case, bias=bias)
    _check_gradients(op, [x], weights)


@SIZES
def test_gradients_of_a_scale_and_shift(size: tuple[int, ...]) -> None:
    weights = {"scale": _random(3, seed=1), "shift": _random(3, seed=2)}
    _check_gradients(Affine(3), [_random(2, 3, *size)], weights)


@SIZES
def test_gradients_of_a_clip(size: tuple[int, ...]) -> None:
    weights = {"low": np.array([-0.5, -0.1, 0.2]), "high": np.array([0.5, 0.4, 0.7])}
    _check_gradients(Clip(3), [_distinct(2, 3, *size)], weights)


def test_a_clip_without_bounds_gives_what_it_is_given() -> None:
    x = _random(2, 3, 4)
    weights = {"low": np.full(3, -np.inf), "high": np.full(3, np.inf)}
    np.testing.assert_array_equal(KERNELS[Clip].forward(Clip(3), Context("node", weights), x), x)


@sliding
def test_gradients_of_max_pool(case: Sliding) -> None:
    op = MaxPool(case.window, case.stride, case.padding)
    _check_gradients(op, [_distinct(2, 3, *case.size)])


@unpadded
def test_gradients_of_average_pool(case: Sliding) -> None:
    _check_gradients(AvgPool(case.window, case.stride), [_random(2, 3, *case.size)])


@pytest.mark.parametrize("size", [(5,), (2, 7), (4, 3, 2)], ids=["1-D", "2-D", "3-D"])
def test_gradients_of_blur_pool(size: tuple[int, ...]) -> None:
    _check_gradients(BlurPool((3,) * len(size), 2), [_random(2, 3, *size)])


def test_gradients_of_a_wider_blur() -> None:
    _check_gradients(BlurPool((5,), 2), [_random(2, 3, 8)])


@SIZES
@pytest.mark.parametrize("kind", ["avg", "max", "avgmax", "catavgmax"])
def test_gradients_of_global_pool(kind: Any, size: tuple[int, ...]) -> None:
    _check_gradients(GlobalPool(kind), [_distinct(2, 3, *size)])


@SIZES
@pytest.mark.parametrize("training", [True, False], ids=["in training", "in inference"])
def test_gradients_of_batch_norm(training: bool, size: tuple[int, ...]) -> None:
    _check_gradients(_norm(), [_random(2, 3, *size)], _norm_weights(), training=training)


@SIZES
@pytest.mark.parametrize("training", [True, False], ids=["in training", "in inference"])
def test_gradients_of_batch_norm_that_is_not_affine(training: bool, size: tuple[int, ...]) -> None:
    weights = {name: a for name, a in _norm_weights().items() if name.startswith("running")}
    op = dataclasses.replace(_norm(), affine=False)
    _check_gradients(op, [_random(2, 3, *size)], weights, training=training)


@SIZES
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("affine", [True, False])
def test_gradients_of_group_norm(affine: bool, groups: int, size: tuple[int, ...]) -> None:
    weights = {"gamma": _random(4, seed=1), "beta": _random(4, seed=2)} if affine else {}
    op = GroupNorm(4, groups, 1e-3, affine)
    _check_gradients(op, [_random(2, 4, *size)], weights, training=True)


def test_gradients_of_prelu() -> None:
    _check_gradients(PRelu(), [_distinct(2, 3, 4)], {"slope": np.array([0.3])})


def test_gradients_of_concat() -> None:
    _check_gradients(Concat(), [_random(2, channels, 3, 2) for channels in (1, 3, 2)])


def test_gradients_of_relu() -> None:
    _check_gradients(Relu(), [_distinct(2, 3, 4)])


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_gradients_of_an_activation(kind: Any) -> None:
    _check_gradients(Activation(kind, 0.2), [_distinct(2, 30, 4)])


def test_gradients_of_dropout() -> None:
    mask = (_random(2, 3, 4, seed=1) > 0).astype(float)
    _check_gradients(Dropout(0.2), [_random(2, 3, 4)], training=True, mask=mask)


def test_gradients_of_the_linear_layer() -> None:
    _check_gradients(Dense(4, 3), [_random(2, 4)], {"kernel": _random(3, 4), "bias": _random(3)})
    _check_gradients(Dense(4, 3, bias=False), [_random(2, 4)], {"kernel": _random(3, 4)})


def test_gradients_of_softmax() -> None:
    _check_gradients(Softmax(), [_random(2, 4)])


def test_gradients_of_sigmoid() -> None:
    _check_gradients(Sigmoid(), [_random(2, 4)])


def test_relu_has_no_slope_at_zero() -> None:
    x = np.array([[-1.0, 0.0, 1.0]])
    ((dx,), _) = KERNELS[Relu].backward(Relu(), Context("node"), np.full_like(x, 5.0), x)
    np.testing.assert_array_equal(dx, [[0.0, 0.0, 5.0]])


def _max_pool_slope(op: MaxPool, x: Any) -> Array:
    x = np.array(x, float)[None, None]
    y = _forward(op, x)
    dy = np.arange(1.0, y.size + 1).reshape(y.shape)
    ((dx,), _) = KERNELS[MaxPool].backward(op, Context("node"), dy, x)
    return np.asarray(dx[0, 0])


def test_equal_maxima_of_a_window_give_the_gradient_to_the_first() -> None:
    op = MaxPool((2, 2), 2, ((0, 0), (0, 0)))
    x = [[1, 7, 5, 5], [7, 7, 5, 5]]
    np.testing.assert_array_equal(_max_pool_slope(op, x), [[0, 1, 2, 0], [0, 0, 0, 0]])


def test_a_maximum_of_two_windows_gets_both_gradients() -> None:
    op = MaxPool((3,), 2, ((0, 0),))
    np.testing.assert_array_equal(_max_pool_slope(op, [0, 1, 9, 1, 0]), [0, 0, 3, 0, 0])


@pytest.mark.parametrize("value", [-2.0, 0.0])
def test_padding_takes_no_gradient_from_equal_maxima(value: float) -> None:
    op = MaxPool((3, 3), 2, ((1, 1), (1, 1)))
    x = np.full((3, 3), value)
    expected = [[1, 2, 0], [3, 4, 0], [0, 0, 0]]
    np.testing.assert_array_equal(_max_pool_slope(op, x), expected)


def test_equal_maxima_of_a_global_pool_share_the_gradient() -> None:
    x = np.array([[[3.0, 1.0, 3.0], [2.0, 2.0, 2.0]]])
    dy = np.array([[6.0, 9.0]])
    ((dx,), _) = KERNELS[GlobalPool].backward(GlobalPool("max"), Context("node"), dy, x)
    np.testing.assert_array_equal(dx, [[[3.0, 0.0, 3.0], [3.0, 3.0, 3.0]]])


# The loss


def test_cross_entropy_by_its_formula() -> None:
    logits, labels = _random(4, 3), np.array([2, 0, 0, 1])
    loss, gradient = cross_entropy(logits, labels)
    shares = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in logits]
    expected = -sum(math.log(shares[n][label]) for n, label in enumerate(labels)) / 4
    assert loss == pytest.approx(expected, rel=1e-14)
    assert isinstance(loss, float)
    slope = [
        [(shares[n][c] - (c == label)) / 4 for c in range(3)] for n, label in enumerate(labels)
    ]
    np.testing.assert_allclose(gradient, slope, **EXACT)


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_classes() -> None:
    loss, _ = cross_entropy(np.zeros((2, 10)), np.array([0, 9]))
    assert loss == pytest.approx(math.log(10), rel=1e-15)


def test_cross_entropy_weighs_samples_by_their_labels() -> None:
    """Nothing is divided by the sum of the weights: 2 * log 2 and 0.5 * log 2, over 2 samples."""
    loss, slope = cross_entropy(np.zeros((2, 2)), np.array([0, 1]), weights=(2.0, 0.5))
    assert loss == pytest.approx(1.25 * math.log(2), rel=1e-15)
    np.testing.assert_allclose(slope, [[-0.5, 0.5], [0.125, -0.125]], **EXACT)


def test_binary_cross_entropy_by_hand() -> None:
    """Of logits 0, each label costs log 2; one of four is not known, one counts three times."""
    labels = np.array([[1.0, 0.0], [np.nan, 1.0]])
    loss, slope = binary_cross_entropy(np.zeros((2, 2)), labels, weights=(3.0, 1.0))
    assert loss == pytest.approx((3 + 1 + 0 + 1) / 4 * math.log(2), rel=1e-15)
    np.testing.assert_allclose(slope, np.array([[-1.5, 0.5], [0, -0.5]]) / 4, **EXACT)
    negative = binary_cross_entropy(np.zeros((2, 2)), np.nan_to_num(labels, nan=-1), 0, (3.0, 1.0))
    assert negative[0] == loss
    smooth, _ = binary_cross_entropy(np.full((1, 1), 2.0), np.ones((1, 1)), 0.2)
    given, absent = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert smooth == pytest.approx(0.9 * given + 0.1 * absent, rel=1e-15)


def test_squared_error_by_hand() -> None:
    loss, slope = squared_error(np.array([[1.0, 5.0]]), np.array([[3.0, np.nan]]))
    assert loss == 2.0
    np.testing.assert_array_equal(slope, [[-2.0, 0.0]])


@pytest.mark.parametrize("loss", ["sigmoid", "squared", "softmax"])
def test_the_slope_of_a_loss_is_its_difference(loss: str) -> None:
    rng, weights = np.random.default_rng(0), (0.5, 2.0, 1.0)
    logits, labels = rng.standard_normal((4, 3)), np.array([[1.0, 0, np.nan]] * 4)
    labels = np.array([0, 2, 1, 1]) if loss == "softmax" else labels
    options = {"softmax": {"class_weights": weights}, "sigmoid": {"positive_weights": weights}}
    recipe = TrainingRecipe(loss=loss, **options.get(loss, {}))  # type: ignore[arg-type]
    _, slope = loss_and_slope(recipe, logits, labels)
    for place in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[place] = 1e-5
        above, below = (loss_and_slope(recipe, logits + s, labels)[0] for s in (step, -step))
        assert slope[place] == pytest.approx((above - below) / 2e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("loss", "labels", "message"),
    [
        ("sigmoid", np.zeros(2), r"should have the shape \(2, 3\), but was \(2,\) \[O7\]"),
        ("sigmoid", np.full((2, 3), 1.5), r"should lie in \[0, 1\], or be negative or NaN \[O7\]"),
        ("squared", np.zeros((3, 2)), r"should have the shape \(2, 3\), .* \[O8\]"),
    ],
)
def test_labels_that_a_loss_can_t_take_are_refused(loss: str, labels: Any, message: str) -> None:
    with pytest.raises(OpError, match=message):
        loss_and_slope(TrainingRecipe(loss=loss), np.zeros((2, 3)), labels)  # type: ignore[arg-type]


def test_cross_entropy_of_large_logits_stays_finite() -> None:
    loss, gradient = cross_entropy(np.array([[1000.0, -1000.0]]), np.array([1]))
    assert loss == 2000
    np.testing.assert_array_equal(gradient, [[1.0, -1.0]])


# Numbered constraints


def test_o1_a_convolution_wants_its_number_of_channels() -> None:
    op = Conv(3, 1, (1,), 1, ((0, 0),), bias=False)
    with pytest.raises(OpError, match=r"^node: 2 channels in \[O1\]$"):
        _forward(op, _random(1, 2, 4), weights={"kernel": _random(1, 3, 1)})


@pytest.mark.parametrize(
    "shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1)], ids=["no positions", "1-D", "2-D"]
)
def test_o2_one_value_has_no_unbiased_variance(shape: tuple[int, ...]) -> None:
    x, weights = _random(*shape), _norm_weights()
    message = r"^node: one value per channel has no unbiased variance \[O2\]$"
    with pytest.raises(OpError, match=message):
        _forward(_norm(unbiased=True), x, training=True, weights=weights)
    assert np.isfinite(_forward(_norm(unbiased=False), x, training=True, weights=weights)).all()
    assert np.isfinite(_forward(_norm(unbiased=True), x, weights=weights)).all()


@pytest.mark.parametrize(
    ("mask", "got"),
    [(None, "none"), (np.ones((2, 3)), r"one of shape \(2, 3\)")],
    ids=["no mask", "a mask of another shape"],
)
def test_o3_dropout_in_training_wants_a_mask_of_its_shape(mask: Array | None, got: str) -> None:
    x = _random(2, 3, 4)
    ctx = Context("node", training=True, mask=mask)
    message = rf"^node: needs a mask of shape \(2, 3, 4\), got {got} \[O3\]$"
    with pytest.raises(OpError, match=message):
        KERNELS[Dropout].forward(Dropout(0.2), ctx, x)
    with pytest.raises(OpError, match=message):
        KERNELS[Dropout].backward(Dropout(0.2), ctx, x, x)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param([0, 1, 2], r"should be 2 integers, but was \(3,\)", id="too many"),
        pytest.param([0], r"should be 2 integers, but was \(1,\)", id="too few"),
        pytest.param([[0], [1]], r"should be 2 integers, but was \(2, 1\)", id="a column"),
        pytest.param([0.0, 1.0], r"should be 2 integers, but was \(2,\)", id="floats"),
        pytest.param([True, False], r"should be 2 integers, but was \(2,\)", id="booleans"),
        pytest.param([0, 3], r"should lie in \[0, 3\)", id="above the classes"),
        pytest.param([-1, 0], r"should lie in \[0, 3\)", id="below zero"),
    ],
)
def test_o4_labels_are_one_class_for_each_sample(labels: Any, message: str) -> None:
    with pytest.raises(OpError, match=rf"^labels: {message} \[O4\]$"):
        cross_entropy(np.zeros((2, 3)), np.array(labels))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_labels_may_be_integers_of_any_kind(dtype: Any) -> None:
    loss, _ = cross_entropy(np.zeros((2, 3)), np.array([0, 2], dtype))
    assert loss == pytest.approx(math.log(3), rel=1e-15)


@pytest.mark.parametrize(
    ("size", "shape", "wanted"),
    [
        pytest.param((8, 8), (1, 4, 8, 8), "3, 8, 8", id="other channels"),
        pytest.param((8, 8), (1, 3, 8, 9), "3, 8, 8", id="another size"),
        pytest.param((None, 8), (1, 3, 8, 9), "3, any, 8", id="another size beside an unknown one"),
        pytest.param((8, 8), (3, 8, 8), "3, 8, 8", id="no batch"),
        pytest.param((8, 8), (1, 3, 8, 8, 8), "3, 8, 8", id="a dimension too many"),
        pytest.param((8, 8), (1, 8, 8, 3), "3, 8, 8", id="channels last"),
    ],
)
def test_o5_the_input_has_the_shape_of_the_graph(
    size: tuple[int | None, ...], shape: tuple[int, ...], wanted: str
) -> None:
    model = _model(lower(tiny(), size))
    with pytest.raises(OpError) as caught:
        model(np.zeros(shape))
    assert str(caught.value) == f"input: shape {shape}, but should be (batch, {wanted}) [O5]"


@pytest.mark.parametrize(
    ("options", "node"),
    [
        pytest.param({"include_top": False}, "final.relu", id="features"),
        pytest.param({"include_top": False, "pooling": "avg"}, "global_pool", id="pooled features"),
        pytest.param({"classifier_activation": "softmax"}, "softmax", id="probabilities"),
    ],
)
def test_o6_training_wants_logits(options: Any, node: str) -> None:
    model = _model(lower(tiny(), (8, 8), **options))
    before = dict(model.weights)
    with pytest.raises(OpError, match=rf"^{node}: the loss is of logits.* \[O6\]$"):
        model.train_step(_random(2, 3, 8, 8), np.array([0, 1]), TrainingRecipe(), learning_rate=0.1)
    assert model.weights == before


# Whole networks


def _model(graph: Graph, *, seed: int = 0, **options: Any) -> ReferenceModel:
    """Every array away from its initial value, so that none can be mistaken for another."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, array in initial_weights(graph, seed).items():
        moved = array + 0.2 * rng.standard_normal(array.shape)
        arrays[name] = np.abs(moved) if name.endswith("variance") else moved
    return ReferenceModel(graph, arrays, **options)


def _masks(graph: Graph, batch: int) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {
        node.name: (rng.random((batch, *map(_known, node.shape))) < 0.7).astype(float)
        for node in graph.nodes
        if isinstance(node.op, Dropout)
    }


def _known(size: int | None) -> int:
    assert size is not None
    return size


NETWORKS: dict[str, tuple[DenseNetSpec, tuple[int, ...]]] = {
    "plain, 2-D": (tiny(), (5, 4)),
    "bottleneck and compression, ImageNet stem": (
        tiny(
            bottleneck_width=2,
            compression=0.5,
            in_channels=2,
            classes=4,
            stem_kind="conv-norm-relu",
            stem_width="2k",
            stem_kernel=5,
            stem_stride=2,
            stem_pool=3,
            padding="same",
            batch_norm_epsilon=1e-3,
            running_variance="biased",
            dropout_rate=0.3,
            dropout_place="every-conv",
        ),
        (12, 10),
    ),
    "pre-activation stem without final norm, 1-D": (
        tiny(
            blocks=(1, 2, 1),
            growth_rate=3,
            spatial_dims=1,
            stem_kind="norm-relu-conv",
            stem_kernel=3,
            stem_pool=3,
            conv_bias=True,
            batch_norm_momentum=0.01,
            transition_relu=False,
            final_norm=False,
            dropout_rate=0.2,
            dropout_place="layer",
            head_units=(5, 4),
        ),
        (16,),
    ),
    "means and maxima, dropout before a classifier without bias": (
        tiny(head_dropout_rate=0.4, classifier_bias=False, global_pool="catavgmax"),
        (5, 4),
    ),
    "deep stem, blurred pools": (
        tiny(
            blocks=(1, 1),
            stem_kind="deep",
            stem_stride=2,
            stem_width=4,
            stem_pool=3,
            stem_pool_kind="max-blur",
            transition_pool_kind="blur",
            dropout_rate=0.2,
            dropout_place="every-conv",
        ),
        (13, 12),
    ),
    "mean of both, dropout behind dense layers": (
        tiny(blocks=(1,), head_units=(3,), head_dropout_rate=0.2, global_pool="avgmax"),
        (4, 3),
    ),
    "dropout after convolutions, 3-D": (
        tiny(spatial_dims=3, dropout_rate=0.5, dropout_place="conv", stem_pool=2, conv_bias=True),
        (4, 5, 4),
    ),
    "groups of channels, ELU": (
        tiny(
            stem_width=4,
            norm="group",
            norm_groups=2,
            activation="elu",
            stem_pool=2,
            stem_kind="conv-norm-relu",
        ),
        (9, 8),
    ),
    "instances, leaky ReLU": (
        tiny(norm="instance", norm_affine=False, activation="leaky-relu", activation_slope=0.2),
        (4, 5),
    ),
    "batch norm without scale, PReLU": (tiny(norm_affine=False, activation="prelu"), (4, 5)),
    "no norm, GELU": (tiny(norm="none", activation="gelu"), (4, 5)),
}

networks = pytest.mark.parametrize(("spec", "size"), NETWORKS.values(), ids=NETWORKS)


def test_the_networks_below_cover_every_field() -> None:
    default = DenseNetSpec(blocks=(1,), growth_rate=1)
    values = {
        field.name: {getattr(spec, field.name) for spec, _ in NETWORKS.values()}
        for field in dataclasses.fields(DenseNetSpec)
    }
    for name, found in values.items():
        assert found - {getattr(default, name)}, f"{name} is nowhere but its default"
    assert values["spatial_dims"] == {1, 2, 3}
    assert values["stem_kind"] == set(STEM_KINDS)
    assert values["dropout_place"] == {"conv", "every-conv", "layer"}


@networks
def test_gradients_of_a_whole_network(spec: DenseNetSpec, size: tuple[int, ...]) -> None:
    """Each array's gradient against the slope of the loss along a random direction."""
    graph = lower(spec, size)
    model, masks = _model(graph), _masks(graph, batch=3)
    x, labels = _random(3, spec.in_channels, *size), np.array([0, 2, 1])
    _, gradients, _ = model.loss_and_gradients(x, labels, masks=masks)
    assert list(gradients) == [weight.name for weight in graph.weights if weight.trainable]

    def loss_at(name: str, moved: Array) -> float:
        kept, model.weights[name] = model.weights[name], moved
        out = graph.output.name
        logits = model.run(x, taps=[out], training=True, masks=masks)[out]
        model.weights[name] = kept
        return cross_entropy(logits, labels)[0]

    for name, gradient in gradients.items():
        weight = model.weights[name]
        assert gradient.shape == weight.shape
        direction = _random(*weight.shape, seed=5)
        slope = loss_at(name, weight + STEP * direction) - loss_at(name, weight - STEP * direction)
        np.testing.assert_allclose(
            (gradient * direction).sum(), slope / (2 * STEP), **DIFFERENCES, err_msg=name
        )


@networks
def test_inference_ignores_dropout(spec: DenseNetSpec, size: tuple[int, ...]) -> None:
    x = _random(2, spec.in_channels, *size)
    with_dropout = _model(lower(spec.replace(dropout_rate=0.5), size))
    without = _model(lower(spec.replace(dropout_rate=0), size))
    np.testing.assert_array_equal(with_dropout(x), without(x))


@networks
def test_unknown_sizes_change_no_number(spec: DenseNetSpec, size: tuple[int, ...]) -> None:
    x = _random(2, spec.in_channels, *size)
    np.testing.assert_array_equal(_model(lower(spec))(x), _model(lower(spec, size))(x))


@networks
def test_every_node_gives_the_shape_that_the_graph_says(
    spec: DenseNetSpec, size: tuple[int, ...]
) -> None:
    graph = lower(spec, size)
    names = [node.name for node in graph.nodes]
    values = _model(graph).run(_random(2, spec.in_channels, *size), taps=names)
    assert {name: value.shape[1:] for name, value in values.items()} == {
        node.name: node.shape for node in graph.nodes
    }


def test_taps_give_those_nodes_and_no_others() -> None:
    graph = lower(tiny(), (6, 6))
    model, x = _model(graph), _random(2, 3, 6, 6)
    everything = model.run(x, taps=[node.name for node in graph.nodes])
    taps = ["input", "block1.concat1", "classifier"]
    some = model.run(x, taps=taps)
    assert set(some) == set(taps)
    for name in taps:
        np.testing.assert_array_equal(some[name], everything[name])
    np.testing.assert_array_equal(some["input"], x)
    np.testing.assert_array_equal(model(x), everything["classifier"])
    assert model.run(x, taps=[]) == {}


def test_taps_of_a_dense_layer_make_its_block() -> None:
    model, x = _model(lower(tiny(), (6, 6))), _random(2, 3, 6, 6)
    values = model.run(x, taps=["stem.conv", "block1.layer1.conv1", "block1.concat1"])
    parts = [values["stem.conv"], values["block1.layer1.conv1"]]
    np.testing.assert_array_equal(values["block1.concat1"], np.concatenate(parts, axis=1))


def test_an_unknown_tap_suggests_near_names() -> None:
    with pytest.raises(UnknownName) as caught:
        _model(lower(tiny(), (6, 6))).run(_random(1, 3, 6, 6), taps=["classifer"])
    assert str(caught.value) == "unknown node 'classifer'. Did you mean classifier?"


def test_a_run_in_training_uses_batch_statistics_and_changes_nothing() -> None:
    model, x = _model(lower(tiny(), (6, 6))), _random(2, 3, 6, 6)
    before = {name: array.copy() for name, array in model.weights.items()}
    inference = model(x)
    training = model.run(x, taps=["classifier"], training=True)["classifier"]
    assert np.abs(training - inference).max() > 0.01
    for name, array in before.items():
        np.testing.assert_array_equal(model.weights[name], array)


def test_a_model_does_not_change_its_input_or_share_its_weights() -> None:
    graph = lower(tiny(), (6, 6))
    arrays = {name: array.astype(float) for name, array in initial_weights(graph).items()}
    kept = {name: array.copy() for name, array in arrays.items()}
    x = _random(2, 3, 6, 6)
    before = x.copy()
    model = ReferenceModel(graph, arrays)
    model.train_step(x, np.array([0, 1]), TrainingRecipe(), learning_rate=0.1)
    np.testing.assert_array_equal(x, before)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, kept[name])
    output = model(x)
    model.load(arrays)
    first = model(x)
    for array in arrays.values():
        array += 1
    np.testing.assert_array_equal(model(x), first)
    assert not np.array_equal(first, output)


def test_weights_that_do_not_fit_replace_nothing() -> None:
    model = _model(lower(tiny()))
    before = dict(model.weights)
    with pytest.raises(WeightsError, match=r"classifier\.bias is missing"):
        model.load({n: a + 1 for n, a in before.items() if n != "classifier.bias"})
    assert all(model.weights[name] is array for name, array in before.items())


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    x = _random(2, 3, 6, 6)
    logits = _model(lower(tiny(), (6, 6)))(x)
    shares = _model(lower(tiny(), (6, 6), classifier_activation="softmax"))(x)
    np.testing.assert_allclose(
        shares, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), **EXACT
    )
    np.testing.assert_allclose(shares.sum(1), 1, **EXACT)


@networks
def test_a_float32_model_computes_in_float32(spec: DenseNetSpec, size: tuple[int, ...]) -> None:
    graph = lower(spec, size)
    x, labels = _random(3, spec.in_channels, *size), np.array([0, 2, 1])
    masks = _masks(graph, batch=3)
    single, double = _model(graph, dtype="float32"), _model(graph)
    names = [node.name for node in graph.nodes]
    values = single.run(x, taps=names, training=True, masks=masks)
    assert {value.dtype for value in values.values()} == {np.dtype("float32")}
    np.testing.assert_allclose(single(x), double(x), rtol=1e-5, atol=1e-5)
    learning_rate = np.float64(0.1)
    for model in (single, double):
        result = model.train_step(
            x, labels, TrainingRecipe(), learning_rate=learning_rate, masks=masks
        )
        kept = [result.gradients, model.weights, model.moments["velocity"]]
        assert {array.dtype for arrays in kept for array in arrays.values()} == {model.dtype}
    for name, array in single.weights.items():
        np.testing.assert_allclose(array, double.weights[name], rtol=1e-5, atol=1e-5, err_msg=name)


# Training steps


def test_two_steps_of_pure_decay_by_hand() -> None:
    """With one class the loss and its gradient are zero, and only weight decay moves a weight.

    w = 2, decay 0.1, momentum 0.5, learning rate 1 and then 0.1, Nesterov:
    step 1: g = 0.2,   v = 0.2,             w = 2 - 1 * (0.2 + 0.5 * 0.2)          = 1.7
    step 2: g = 0.17,  v = 0.1 + 0.17 = 0.27, w = 1.7 - 0.1 * (0.17 + 0.5 * 0.27)  = 1.6695
    """
    graph = lower(tiny(classes=1), (4, 4))
    model = ReferenceModel(graph, {w.name: np.full(w.shape, 2.0) for w in graph.weights})
    recipe = TrainingRecipe(weight_decay=0.1, momentum=0.5)
    x, labels = _random(2, 3, 4, 4), np.array([0, 0])
    trainable = [weight.name for weight in graph.weights if weight.trainable]
    for rate, weight, velocity in [(1.0, 1.7, 0.2), (0.1, 1.6695, 0.27)]:
        result = model.train_step(x, labels, recipe, learning_rate=rate)
        assert result.loss == 0
        for name in trainable:
            np.testing.assert_array_equal(result.gradients[name], 0)
            np.testing.assert_allclose(model.weights[name], weight, **EXACT)
            np.testing.assert_allclose(model.moments["velocity"][name], velocity, **EXACT)


def test_two_steps_of_a_bias_by_hand() -> None:
    """With no features, two classes and one label, only the classifier's bias (b, -b) moves.

    Its first gradient is 1/2 - 1; its second is 1 / (1 + exp(-2 b)) - 1. No weight decay,
    momentum 0.9, learning rate 1 and then 0.1, Nesterov:
    step 1: g = -0.5, v = -0.5, b = 1 * (0.5 + 0.45) = 0.95
    step 2: g = 1 / (1 + exp(-1.9)) - 1 = -0.130108..., v = -0.45 + g, b = 0.95 - 0.1 (g + 0.9 v)
    """
    graph = lower(tiny(classes=2), (4, 4))
    model = ReferenceModel(graph, {w.name: np.zeros(w.shape) for w in graph.weights})
    recipe = TrainingRecipe(weight_decay=0)
    x, labels = _random(2, 3, 4, 4), np.array([0, 0])
    first = model.train_step(x, labels, recipe, learning_rate=1.0)
    assert first.loss == pytest.approx(math.log(2), rel=1e-15)
    np.testing.assert_allclose(first.gradients["classifier.bias"], [-0.5, 0.5], **EXACT)
    np.testing.assert_allclose(model.weights["classifier.bias"], [0.95, -0.95], **EXACT)
    second = model.train_step(x, labels, recipe, learning_rate=0.1)
    slope = 1 / (1 + math.exp(-1.9)) - 1
    assert second.loss == pytest.approx(math.log(1 + math.exp(-1.9)), rel=1e-14)
    np.testing.assert_allclose(second.gradients["classifier.bias"], [slope, -slope], **EXACT)
    bias = 0.95 - 0.1 * (slope + 0.9 * (slope - 0.45))
    np.testing.assert_allclose(model.weights["classifier.bias"], [bias, -bias], **EXACT)
    np.testing.assert_allclose(
        model.moments["velocity"]["classifier.bias"], [slope - 0.45, 0.45 - slope], **EXACT
    )
    assert not any(
        array.any()
        for name, array in model.moments["velocity"].items()
        if name != "classifier.bias"
    )


def test_parts_of_a_batch_are_steps_of_the_whole_but_for_norms() -> None:
    graph, draw = lower(tiny(), (6, 6)), np.random.default_rng(3)
    x, labels = draw.normal(size=(7, 3, 6, 6)), np.arange(7) % 3
    whole, parted, arbiter = (_model(graph) for _ in range(3))
    done = parted.train_step(x, labels, TrainingRecipe(accumulate=3), learning_rate=0.1)
    losses, gradients = [], []
    for part in (slice(0, 3), slice(3, 5), slice(5, 7)):
        loss, found, statistics = arbiter.loss_and_gradients(x[part], labels[part])
        arbiter.weights.update(statistics)
        losses.append(loss)
        gradients.append(found)
    assert done.loss == pytest.approx(np.dot([3 / 7, 2 / 7, 2 / 7], losses))
    for name in gradients[0]:
        expected = (3 * gradients[0][name] + 2 * gradients[1][name] + 2 * gradients[2][name]) / 7
        np.testing.assert_allclose(done.gradients[name], expected, **EXACT)
    for name, array in arbiter.weights.items():
        if ".running_" in name:
            np.testing.assert_allclose(parted.weights[name], array, **EXACT)
    assert whole.train_step(x, labels, TrainingRecipe(), learning_rate=0.1).loss != done.loss


def test_averages_follow_weights_and_statistics_and_are_what_is_judged() -> None:
    graph = freeze(lower(tiny(), (6, 6)), "block2")
    recipe = TrainingRecipe(average=0.75, average_warmup=1)
    model = BACKEND.build(
        graph, initial_weights(graph), dtype=None, data_format="channels_first", name="net"
    )
    trainer = BACKEND.trainer(model, graph, recipe)
    expected = {w.name: model.weights[w.name] for w in moving(graph)}
    assert not any(name.startswith(("stem", "block1")) for name in expected)
    assert any(name.endswith(".running_mean") for name in expected)
    x = _random(3, 3, 6, 6)
    for share in (1 / 2, 1 / 3, 1 / 4, 1 / 4):
        trainer.step(x, np.array([0, 2, 1]), learning_rate=0.1)
        for name, average in expected.items():
            expected[name] = (1 - share) * average + share * model.weights[name]
            np.testing.assert_allclose(trainer.moments()["average"][name], expected[name], **EXACT)
    np.testing.assert_array_equal(
        trainer.predict(x),
        ReferenceModel(graph, model.weights | trainer.moments()["average"])(x),
    )


@networks
def test_a_step_applies_the_recipe_to_every_weight(
    spec: DenseNetSpec, size: tuple[int, ...]
) -> None:
    graph = lower(spec, size)
    model, masks = _model(graph), _masks(graph, batch=3)
    x, labels = _random(3, spec.in_channels, *size), np.array([0, 2, 1])
    recipe = TrainingRecipe(weight_decay=0.01, decay_kernels_only=True)
    zeros = initial_moments(graph, recipe, model.weights, "float64")["velocity"]
    for rate in (0.1, 0.1, 0.01):
        weights = dict(model.weights)
        velocity = dict(model.moments.get("velocity", zeros))
        loss, gradients, statistics = model.loss_and_gradients(x, labels, masks=masks)
        result = model.train_step(x, labels, recipe, learning_rate=rate, masks=masks)
        assert result.loss == loss
        assert set(statistics) == set(weights) - set(gradients)
        for name, gradient in gradients.items():
            np.testing.assert_array_equal(result.gradients[name], gradient)
            decayed = gradient + (0.01 * weights[name] if name.endswith("kernel") else 0)
            moving = 0.9 * velocity[name] + decayed
            moved = weights[name] - rate * (decayed + 0.9 * moving)
            np.testing.assert_allclose(model.moments["velocity"][name], moving, **EXACT)
            np.testing.assert_allclose(model.weights[name], moved, **EXACT)
        for name, array in statistics.items():
            np.testing.assert_array_equal(model.weights[name], array)


def test_a_step_moves_running_statistics_by_the_convention_of_the_spec() -> None:
    x, labels = _random(3, 3, 4, 4), np.array([0, 2, 1])
    for convention, divisor in (("unbiased", 47), ("biased", 48)):
        spec = tiny(
            stem_kind="norm-relu-conv", batch_norm_momentum=0.25, running_variance=convention
        )
        model = _model(lower(spec, (4, 4)))
        before = model.weights["stem.norm.running_variance"]
        model.train_step(x, labels, TrainingRecipe(), learning_rate=0.1)
        variances = np.array([_variance(_values(x, c), divisor) for c in range(3)])
        expected = 0.75 * before + 0.25 * variances
        np.testing.assert_allclose(model.weights["stem.norm.running_variance"], expected, **EXACT)


def test_steps_bring_the_loss_down() -> None:
    model = ReferenceModel(lower(tiny(), (6, 6)), initial_weights(lower(tiny())))
    x, labels = _random(8, 3, 6, 6), np.arange(8) % 3
    losses = [
        model.train_step(x, labels, TrainingRecipe(), learning_rate=0.05).loss for _ in range(20)
    ]
    assert losses[-1] < 0.5 * losses[0]


# Label smoothing, and several devices


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_spreads_its_share_over_all_classes(smoothing: float) -> None:
    logits, labels = _random(4, 5), np.array([0, 4, 2, 2])
    target = np.full((4, 5), smoothing / 5) + (1 - smoothing) * np.eye(5)[labels]
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss, gradient = cross_entropy(logits, labels, smoothing)
    assert loss == pytest.approx(-(target * np.log(probability)).sum() / 4, rel=1e-14)
    np.testing.assert_allclose(gradient, (probability - target) / 4, rtol=1e-12, atol=1e-16)


def _after_steps(recipe: TrainingRecipe, replicas: int, batch: int = 5) -> ReferenceModel:
    spec, size = NETWORKS["dropout after convolutions, 3-D"]
    graph = lower(spec, size)
    model, masks = _model(graph), _masks(graph, batch)
    x, labels = _random(batch, spec.in_channels, *size), np.arange(batch) % spec.classes
    for _ in range(2):
        model.train_step(x, labels, recipe, learning_rate=0.1, masks=masks, replicas=replicas)
    return model


def test_synchronised_devices_do_what_one_does() -> None:
    one = _after_steps(TrainingRecipe(), 1)
    many = _after_steps(TrainingRecipe(batch_norm="synchronised"), 3)
    for name, array in one.weights.items():
        np.testing.assert_array_equal(many.weights[name], array)


def test_devices_on_their_own_take_means_over_shards() -> None:
    """By hand: three samples on the first device, two on the second."""
    spec, size = NETWORKS["dropout after convolutions, 3-D"]
    graph = lower(spec, size)
    masks = _masks(graph, 5)
    x, labels = _random(5, spec.in_channels, *size), np.arange(5) % spec.classes
    model = _model(graph)
    result = model.train_step(
        x, labels, TrainingRecipe(), learning_rate=0.1, masks=masks, replicas=2
    )
    shards = [
        _model(graph).loss_and_gradients(
            x[part], labels[part], masks={name: mask[part] for name, mask in masks.items()}
        )
        for part in (slice(0, 3), slice(3, 5))
    ]
    assert result.loss == pytest.approx(0.6 * shards[0][0] + 0.4 * shards[1][0], rel=1e-14)
    for name, gradient in result.gradients.items():
        expected = 0.6 * shards[0][1][name] + 0.4 * shards[1][1][name]
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-16)
    for name, statistic in shards[0][2].items():
        expected = (statistic + shards[1][2][name]) / 2
        np.testing.assert_allclose(model.weights[name], expected, rtol=1e-12)
