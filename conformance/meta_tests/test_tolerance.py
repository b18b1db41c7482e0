"""Bounds allow what rounding does, whatever draws it, and little more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from densespec import DenseNetSpec
from densespec.network.graph import lower
from densespec.network.ops import BatchNorm, GroupNorm
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.backend import NumpyBackend
from densespec.reference.kernels import (
    KERNELS,
    BatchNormKernel,
    GroupNormKernel,
    through_affine,
)
from densespec.reference.model import ReferenceModel
from densespec_conformance.answering.answers import handle
from densespec_conformance.answering.target import LocalTarget
from densespec_conformance.asking.questions import batches, random_weights
from densespec_conformance.asking.requests import Forward, NetworkToBuild, Train
from densespec_conformance.case import Case
from densespec_conformance.cases import (
    all_cases,
    float32_step,
    forward,
    random_specs,
    sixteen_bits,
    training,
)
from densespec_conformance.judging import tolerance
from densespec_conformance.judging.compare import Mismatch, assert_close, assert_same_steps
from densespec_conformance.judging.disturbed import DisturbedBackend
from densespec_conformance.judging.expected import Expectation, Reference, expectation
from densespec_conformance.judging.rounding import ARITHMETIC, arithmetic_of, rounded
from densespec_conformance.running.one_case import run_case
from meta_tests.mutants import MUTANTS

CASES = {case.id: case for case in all_cases()}
ROWS = {row.name: row for row in forward.ROWS}
STEM = ROWS["torchvision-stem"]
DTYPES = ("float64", "float32", "bfloat16", "float16")
OTHER_DRAW = 1000
"""A draw that no bound was derived from."""


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def _forward(dtype: str) -> Forward:
    return forward.request(STEM, dtype)


def _in_float64(request: Forward) -> Forward:
    return replace(request, network=replace(request.network, dtype="float64"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draw", range(OTHER_DRAW, OTHER_DRAW + 3))
def test_other_roundings_reach_at_most_half_a_bound(dtype: str, draw: int) -> None:
    request = _forward(dtype)
    answer: Any = handle(DisturbedBackend(dtype, draw), _in_float64(request))
    outcome = assert_close(actual=answer, expected=expectation(request), order=request.taps)
    assert 0.01 < outcome.strain < 0.5


def test_other_roundings_of_training_reach_at_most_half_a_bound() -> None:
    request = training.request(training.ROWS[0])
    answer: Any = handle(DisturbedBackend("float64", OTHER_DRAW), request)
    outcome = assert_same_steps(actual=answer, expected=expectation(request))
    assert 0.01 < outcome.strain < 0.75


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["torchvision-stem", "four-blocks", "three-dimensions"])
def test_reference_in_a_dtype_is_within_its_bounds_but_not_far_within(
    name: str, dtype: str
) -> None:
    request = forward.request(ROWS[name], dtype)
    expected = expectation(request)
    answer: Any = handle("numpy", request)
    outcome = assert_close(actual=answer, expected=expected, order=request.taps)
    assert 0.05 < outcome.strain < 0.5
    output = request.taps[-1]
    exact = expected.values[output]  # type: ignore[index, call-overload]
    error = np.abs(answer[output] - exact).max() / np.abs(exact).max()
    assert expected.bounds.of(output) < 200 * error


@pytest.mark.parametrize("row", sixteen_bits.ROWS, ids=lambda row: row.name)
def test_other_roundings_to_16_bits_reach_at_most_half_a_bound(row: sixteen_bits.NarrowRow) -> None:
    request = sixteen_bits.request(row)
    in_float64 = replace(request, network=replace(request.network, dtype="float64"))
    answer: Any = handle(DisturbedBackend(row.dtype, OTHER_DRAW), in_float64)
    outcome = assert_same_steps(actual=answer, expected=expectation(request))
    assert 0.05 < outcome.strain < 0.5


def test_gradients_of_a_loss_that_is_not_scaled_are_beyond_the_bounds_of_float16() -> None:
    (row,) = (row for row in sixteen_bits.ROWS if row.dtype == "mixed_float16")
    request = sixteen_bits.request(row)
    unscaled = DisturbedBackend("mixed_float16", OTHER_DRAW)
    unscaled.arithmetic = replace(unscaled.arithmetic, loss_scale=1.0)
    in_float64 = replace(request, network=replace(request.network, dtype="float64"))
    answer: Any = handle(unscaled, in_float64)
    with pytest.raises(Mismatch, match="gradient"):
        assert_same_steps(actual=answer, expected=expectation(request))


def test_float32_step_of_the_reference_is_within_its_bounds() -> None:
    request = float32_step.decided_step()
    answer: Any = handle("numpy", request)
    outcome = assert_same_steps(actual=answer, expected=expectation(request))
    assert 0.05 < outcome.strain < 0.5


NEARLY_LINEAR = forward.SMALL.replace(
    blocks=(1, 2), norm="instance", activation="leaky-relu", activation_slope=0.9
)
"""A network whose last norms leave a hundredth of their gradient: behind them all positions of a
map have nearly the same, of which they take the mean off."""


def _step_that_cancels(label: str) -> Train:
    graph, recipe = lower(NEARLY_LINEAR, (32, 32)), TrainingRecipe(epochs=1, learning_rate=0.05)
    (batch,) = batches(graph, recipe, steps=1, batch=2, label=label)
    weights = random_weights(lower(NEARLY_LINEAR), label)
    rounded = {name: array.astype(np.float32) for name, array in weights.items()}
    network = NetworkToBuild(NEARLY_LINEAR, (32, 32), dtype="float32", weights=rounded)
    return Train(network, recipe, (replace(batch, x=batch.x.astype(np.float32)),))


@pytest.mark.parametrize("label", ["three", "four"])
def test_float32_step_whose_gradients_cancel_is_within_its_bounds(label: str) -> None:
    request = _step_that_cancels(label)
    outcome = assert_same_steps(actual=_steps(request), expected=expectation(request))
    assert 0.05 < outcome.strain < 0.5


class _WithoutMean(GroupNormKernel):
    def backward(self, op: Any, ctx: Any, dy: np.ndarray, x: np.ndarray) -> Any:
        (dx,), gradients = super().backward(op, ctx, dy, x)
        slope, _ = through_affine(op.affine, ctx, dy, x)
        _, inverse = self._normalised(op, ctx, x)
        mean = slope.reshape(len(x), op.groups, -1).mean(2, keepdims=True) * inverse
        return [dx + (mean * np.ones((1, 1, x.size // inverse.size))).reshape(x.shape)], gradients


class _WithoutStretch(GroupNormKernel):
    def backward(self, op: Any, ctx: Any, dy: np.ndarray, x: np.ndarray) -> Any:
        (dx,), gradients = super().backward(op, ctx, dy, x)
        normalised, inverse = self._normalised(op, ctx, x)
        slope, _ = through_affine(op.affine, ctx, dy, normalised)
        slope, y = (a.reshape(len(x), op.groups, -1) for a in (slope, normalised))
        return [dx + (y * (slope * y).mean(2, keepdims=True) * inverse).reshape(x.shape)], gradients


@pytest.mark.parametrize(
    "kernel", [_WithoutMean(), _WithoutStretch()], ids=lambda k: type(k).__name__
)
def test_what_a_group_norm_leaves_out_of_its_gradient_is_found(kernel: GroupNormKernel) -> None:
    request = _step_that_cancels("three")
    with pytest.raises(Mismatch, match="gradient"):
        assert_same_steps(actual=_steps(request, kernel), expected=expectation(request))


def _steps(request: Train, kernel: GroupNormKernel | None = None) -> Any:
    """Answer a request by the reference in the request's own dtype, with another group norm."""

    class WithKernel(NumpyBackend):
        def build(self, graph: Any, weights: Any, *, dtype: str, **options: Any) -> Any:
            own = {GroupNorm: kernel} if kernel else {}
            return ReferenceModel(graph, weights, dtype=dtype, kernels={**KERNELS, **own})

    return handle(WithKernel(), request)


def test_bounds_grow_with_the_roundoff() -> None:
    classifiers = [expectation(_forward(dtype)).bounds.of("classifier") for dtype in DTYPES]
    units = [ARITHMETIC[dtype].unit for dtype in DTYPES]
    order = np.argsort(units)
    assert np.all(np.diff(np.array(classifiers)[order]) > 0)
    for bound, unit in zip(classifiers, units, strict=True):
        assert tolerance.SAFETY * unit <= bound < 100 * tolerance.SAFETY * unit


def test_bounds_grow_with_depth() -> None:
    bounds = expectation(_forward("float32")).bounds
    assert bounds.of("classifier") != bounds.of("stem.conv")
    deep = forward.ForwardRow("deep", {"blocks": (12, 12)}, size=(16, 16))
    last = lower(deep.spec).nodes[-4].name
    deeper = expectation(forward.request(deep, "float32")).bounds
    assert deeper.of(last) > deeper.of("block1.layer1.norm1")


def test_tf32_is_used_where_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    full = expectation(_forward("float32")).bounds
    monkeypatch.setenv("DENSESPEC_TF32", "1")
    assert arithmetic_of("float32") == "tf32"
    assert arithmetic_of("float64") == "float64"
    coarse = expectation(_forward("float32")).bounds
    assert "TF32 off" in full.reason
    assert "TF32 on" in coarse.reason
    assert coarse.of("classifier") > 100 * full.of("classifier")


@pytest.mark.parametrize(
    "case_id",
    [
        pytest.param("forward/torchvision-stem", id="float64"),
        pytest.param("float32/variances-as-small-as-epsilon", id="float32-where-it-can-be-seen"),
    ],
)
def test_epsilon_of_keras_applications_is_told_from_1e_5(
    case_id: str, reference: Reference
) -> None:
    target = LocalTarget("meta_tests.mutants:EPSILON_OF_KERAS_APPLICATIONS")
    assert MUTANTS["EPSILON_OF_KERAS_APPLICATIONS"].where == "stem.norm"
    result = run_case(CASES[case_id], target, reference)
    assert result.status == "failed"
    assert result.where == "stem.norm"


def test_message_says_where_how_much_and_why() -> None:
    request = _forward("float32")
    expected = expectation(request)
    answer: Any = dict(expected.values)  # type: ignore[arg-type]
    answer["block1.layer1.conv1"] = answer["block1.layer1.conv1"] * 1.001
    with pytest.raises(Mismatch) as caught:
        assert_close(actual=answer, expected=expected, order=request.taps)
    allowed = f"{expected.bounds.of('block1.layer1.conv1'):.1e}"
    assert str(caught.value).startswith("block1.layer1.conv1: has mean")
    assert f"allowed {allowed} (float32, TF32 off: 8 times" in str(caught.value)
    assert [item.name for item in caught.value.comparisons] == list(request.taps)
    assert [item.name for item in caught.value.comparisons if not item.ok] == [
        "block1.layer1.conv1"
    ]


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda y: y[:, :-1], id="shape"),
        pytest.param(lambda y: np.where(y == y.max(), np.nan, y), id="nan"),
        pytest.param(lambda y: np.where(y == y.max(), np.inf, y), id="infinity"),
    ],
)
def test_unusable_values_are_a_mismatch(break_it: Callable[[np.ndarray], np.ndarray]) -> None:
    request = _forward("bfloat16")
    expected = expectation(request)
    answer: Any = dict(expected.values)  # type: ignore[arg-type]
    answer["stem_pool"] = break_it(answer["stem_pool"])
    with pytest.raises(Mismatch, match="stem_pool: has"):
        assert_close(actual=answer, expected=expected, order=request.taps)


def test_missing_values_are_a_mismatch() -> None:
    values = {"a": np.ones(2), "b": np.ones(2)}
    expected = Expectation(values, tolerance.Bounds({"a": 0.1, "b": 0.1}, "made up"))
    with pytest.raises(Mismatch, match="b: is missing"):
        assert_close(actual={"a": np.ones(2)}, expected=expected, order=("a", "b"))


def test_steps_that_are_missing_are_a_mismatch() -> None:
    request = float32_step.decided_step()
    with pytest.raises(Mismatch, match="number of steps: is 0"):
        assert_same_steps(actual=[], expected=expectation(request))


def test_bfloat16_is_rounded_as_others_round_it() -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal(10_000).astype(np.float32) * 10.0 ** draw.integers(-30, 30, 10_000)
    halves = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0.0, -0.0], np.float32)
    x = np.concatenate([x.astype(np.float32), halves])
    ours, theirs = rounded(x, "bfloat16"), x.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert ours.dtype == np.float32
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_unit_roundoff_is_that_of_the_dtype(dtype: str) -> None:
    unit = ARITHMETIC[dtype].unit
    wide = np.array([1 + 0.99 * unit, 1 + 1.01 * unit], np.longdouble).astype(np.float64)
    if dtype == "float64":
        assert unit == np.finfo(np.float64).eps / 2
    else:
        below, above = rounded(wide, dtype).astype(float)
        assert below == 1
        assert above == 1 + 2 * unit


def test_target_without_a_dtype_is_unsupported_not_passed(reference: Reference) -> None:
    case = CASES["bfloat16/torchvision-stem"]
    result = run_case(case, LocalTarget("numpy"), reference)
    assert result.status == "unsupported"
    assert "bfloat16" in result.message


def test_full_tier_has_every_forward_row_in_every_dtype() -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        names = {case.id.partition("/")[2] for case in CASES.values() if case.id.startswith(dtype)}
        assert {row.name for row in forward.ROWS} - names == {"three-dimensions-with-pools"}


def test_weights_are_rounded_before_the_reference_computes() -> None:
    request = _forward("bfloat16")
    assert request.network.weights is not None
    kernel = request.network.weights["stem.conv.kernel"]
    assert np.array_equal(kernel, rounded(kernel, "bfloat16"))
    assert np.array_equal(request.x, rounded(request.x, "bfloat16"))


def test_counts_have_no_rounding_to_allow_for() -> None:
    from densespec_conformance.asking.requests import Inspect

    with pytest.raises(TypeError, match="Inspect has no rounding"):
        expectation(Inspect(NetworkToBuild(STEM.spec), (8, 8)))


RANDOM: Case = CASES["random/8-random-networks"]


@pytest.fixture(autouse=True)
def whole_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrinking ends when there is nothing smaller, however busy the machine is."""
    monkeypatch.setattr(random_specs, "SHRINKING", float("inf"))


def test_random_failure_is_shrunk_and_says_the_command(reference: Reference) -> None:
    name = "meta_tests.mutants:REVERSED_CONCAT"
    result = run_case(RANDOM, LocalTarget(name), reference)
    assert result.status == "failed"
    assert result.where == "block1.concat1"
    command = result.message.splitlines()[-1]
    assert command.startswith(f'python -m densespec_conformance {name} --spec \'{{"blocks":[1],')
    assert " --input 1x1x" in command


class _Broken:
    """A target that can't answer."""

    name = "my.module:BACKEND"

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    def ask(self, request: object) -> Any:
        self.asked += 1
        raise self.error


def test_crash_ends_the_search_and_says_which_network(reference: Reference) -> None:
    from densespec_conformance.answering.target import TargetCrashed

    target = _Broken(TargetCrashed("its process died with exit code -11"))
    result = run_case(RANDOM, target, reference)
    assert result.status == "crashed"
    assert target.asked == 1
    assert (
        "exit code -11\nthe network was:\npython -m densespec_conformance my.mod" in result.message
    )


def test_error_is_shrunk_and_says_which_network(reference: Reference) -> None:
    from densespec_conformance.answering.target import TargetError

    result = run_case(RANDOM, _Broken(TargetError("ValueError: no")), reference)
    assert result.status == "error"
    assert '{"blocks":[1],"growth_rate":1' in result.message


REPEATING = DenseNetSpec(
    blocks=(1,),
    growth_rate=3,
    in_channels=2,
    classes=2,
    stem_kind="norm-relu-conv",
    stem_width=8,
    stem_kernel=1,
    stem_pool=2,
    conv_bias=True,
    batch_norm_epsilon=1.001e-5,
    head_units=(5, 1),
    head_dropout_rate=0.2,
    classifier_bias=False,
)
"""A network in whose maps the bias of the stem's convolution stands wherever the ReLU before gave
nothing, so that norms sum many equal values."""


class _SumsInOrder(BatchNormKernel):
    def _moments(self, ctx: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
        mean = np.cumsum(values, 1)[:, -1:] / values.shape[1]
        variance = np.cumsum((values - mean) ** 2, 1)[:, -1] / values.shape[1]
        return (mean[:, 0], variance) if ctx.training else super()._moments(ctx, x)


class _InOrder(NumpyBackend):
    def build(self, graph: Any, weights: Any, *, dtype: str, **options: Any) -> Any:
        kernels = {**KERNELS, BatchNorm: _SumsInOrder()}
        return ReferenceModel(graph, weights, dtype=dtype, kernels=kernels)


def test_equal_values_may_be_summed_in_order() -> None:
    graph = lower(REPEATING, (29, 20))
    recipe = TrainingRecipe(epochs=2, milestones=(0.5,), learning_rate=0.05)
    given = batches(graph, recipe, steps=2, batch=2, label="network")
    weights = random_weights(graph, "network")
    network = NetworkToBuild(REPEATING, (29, 20), dtype="float64", weights=weights)
    request = Train(network, recipe, given)
    answer: Any = handle(_InOrder(), request)
    outcome = assert_same_steps(actual=answer, expected=expectation(request))
    assert 0.05 < outcome.strain < 0.5
