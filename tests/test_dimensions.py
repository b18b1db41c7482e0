"""Weights of a network for inputs of another number of dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import densespec
from densespec.errors import WeightsError, WeightsWarning
from densespec.network.graph import lower
from densespec.network.spec import STEM_KINDS
from densespec.weights.dimensions import fitted_window
from densespec.weights.opening import open_weights
from tests.strategies import tiny, unhurried
from tests.test_convert import random_weights

LONG, SHORT = 80, 8


def _spec(dims: int, **changes: Any) -> Any:
    stem = {"stem_kernel": 7, "stem_stride": 2, "stem_pool": 3, "bottleneck_width": 2}
    return tiny(spatial_dims=dims, **(stem | changes))


def _features(model: Any, x: np.ndarray) -> Any:
    return densespec.build(backend="numpy", weights=model, include_top=False)(x)


def _of_other_dimensions(model: Any, dims: int) -> Any:
    with pytest.warns(WeightsWarning, match=f"for {dims}$"):
        return densespec.build(backend="numpy", weights=model, spatial_dims=dims)


@settings(unhurried, max_examples=20)
@given(
    kind=st.sampled_from(STEM_KINDS),
    padding=st.sampled_from(["symmetric", "same"]),
    pool=st.sampled_from([None, 2, 3]),
    dims=st.sampled_from([1, 2]),
    seed=st.integers(0, 9),
)
def test_an_input_that_is_constant_along_the_new_axis_gives_what_it_gave_without_it(
    kind: str, padding: str, pool: int | None, dims: int, seed: int
) -> None:
    spec = _spec(dims, stem_kind=kind, padding=padding, stem_pool=pool)
    arrays = random_weights(spec, seed=seed)
    model = densespec.build(spec, backend="numpy", weights=arrays)
    deeper = _of_other_dimensions(model, dims + 1)
    x = np.random.default_rng(seed).standard_normal((1, 3, *(16,) * dims))
    flat = _features(model, x)
    extended = _features(deeper, np.repeat(x[:, :, None], LONG, axis=2))
    middle = extended.shape[2] // 2
    np.testing.assert_allclose(extended[:, :, middle], flat, rtol=0, atol=1e-6 * abs(flat).max())


@pytest.mark.parametrize("dims", [2, 3])
def test_an_axis_that_goes_is_one_along_which_inputs_were_constant(dims: int) -> None:
    model = densespec.build(_spec(dims), backend="numpy", weights=random_weights(_spec(dims)))
    flatter = _of_other_dimensions(model, dims - 1)
    x = np.random.default_rng(1).standard_normal((1, 3, *(16,) * (dims - 1)))
    extended = _features(model, np.repeat(x[:, :, None], LONG, axis=2))
    flat, middle = _features(flatter, x), extended.shape[2] // 2
    np.testing.assert_allclose(extended[:, :, middle], flat, rtol=0, atol=1e-6 * abs(flat).max())


def test_borders_see_the_padding_along_the_new_axis() -> None:
    model = densespec.build(_spec(2), backend="numpy", weights=random_weights(_spec(2)))
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16))
    extended = _features(_of_other_dimensions(model, 3), np.repeat(x[:, :, None], SHORT, axis=2))
    flat = _features(model, x)
    assert np.abs(extended[:, :, 0] - flat).max() > 1e-3 * np.abs(flat).max()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_shape_and_type_are_as_asked_for(dims: int, dtype: str) -> None:
    kernel = np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(dtype)
    fitted = fitted_window(kernel, dims)
    assert (fitted.shape, fitted.dtype) == ((4, 3, *(5,) * dims), dtype)


def test_what_was_inflated_is_flattened_to_what_it_was() -> None:
    kernel = np.random.default_rng(0).standard_normal((4, 3, 5))
    np.testing.assert_allclose(fitted_window(fitted_window(kernel, 3), 1), kernel, rtol=1e-12)


@pytest.mark.parametrize("form", ["a file", "arrays", "torchvision's names"])
def test_every_form_of_weights_is_fitted_alike(form: str, tmp_path: Any) -> None:
    like_theirs = {"stem_kind": "conv-norm-relu", "compression": 0.5, "bottleneck_width": 4}
    spec, path = _spec(2, **like_theirs), tmp_path / "net.safetensors"
    model = densespec.build(spec, backend="numpy", weights=random_weights(spec))
    densespec.save(model, path)
    densespec.convert(path, tmp_path / "theirs.safetensors", to_layout="torchvision")
    weights = {
        "a file": path,
        "arrays": densespec.read_weights(model),
        "torchvision's names": tmp_path / "theirs.safetensors",
    }[form]
    with pytest.warns(WeightsWarning, match="for 3$"):
        fitted = densespec.build(spec, backend="numpy", weights=weights, spatial_dims=3)
    expected = densespec.read_weights(_of_other_dimensions(model, 3))
    for name, array in densespec.read_weights(fitted).items():
        np.testing.assert_array_equal(array.astype(np.float32), expected[name].astype(np.float32))


def test_transfer_takes_other_dimensions_and_channels_at_once() -> None:
    arrays = random_weights(_spec(2))
    with pytest.warns(WeightsWarning) as told:
        model = densespec.transfer(
            _spec(2), classes=2, backend="numpy", weights=arrays, in_channels=1, spatial_dims=3
        )
    assert len(told) == 2
    assert model.densespec.graph.spec == _spec(3, classes=2, in_channels=1)


def test_without_weights_the_network_is_of_as_many_dimensions() -> None:
    model = densespec.build(_spec(2), backend="numpy", spatial_dims=3)
    assert model.densespec.graph == lower(_spec(3))


def test_weights_of_other_dimensions_are_refused_unless_asked_for(tmp_path: Any) -> None:
    densespec.save(densespec.build(_spec(2), backend="numpy"), tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match=r"spatial_dims is 2 there, but 3 here; spatial_dims=3"):
        densespec.build(_spec(3), backend="numpy", weights=tmp_path / "net.safetensors")
    with open_weights(tmp_path / "net.safetensors", spatial_dims=3) as found:
        assert found.spec == _spec(3)
        assert [note for note in found.notes if "repeated along new axes" in note]
