"""Weights of a network for images of another number of channels."""

from __future__ import annotations

import numpy as np
import pytest

import densespec
from densespec.errors import WeightsError, WeightsWarning
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.weights.channels import fitted_kernel
from tests.strategies import tiny


def _kernel(channels: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, channels, 3, 3)).astype("float32")


def test_a_grey_image_gives_what_it_gave_in_grey_colours() -> None:
    kernel = _kernel(3)
    grey = np.random.default_rng(1).standard_normal((3, 3))
    coloured = (kernel * grey).sum((1, 2, 3))
    np.testing.assert_allclose((fitted_kernel(kernel, 1) * grey).sum((1, 2, 3)), coloured, 1e-5)


@pytest.mark.parametrize("channels", [2, 4, 5, 6])
def test_more_channels_are_repeated_in_turn_and_scaled(channels: int) -> None:
    kernel = _kernel(3)
    fitted = fitted_kernel(kernel, channels)
    for channel in range(channels):
        expected = kernel[:, channel % 3] * np.float32(3 / channels)
        np.testing.assert_array_equal(fitted[:, channel], expected)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_the_type_stays(dtype: str) -> None:
    kernel = _kernel(3).astype(dtype)
    assert fitted_kernel(kernel, 1).dtype == fitted_kernel(kernel, 4).dtype == dtype


@pytest.mark.parametrize("dims", [1, 3])
def test_any_number_of_dimensions_is_fitted(dims: int) -> None:
    spec = tiny(spatial_dims=dims)
    arrays = initial_weights(lower(spec), 0)
    with pytest.warns(WeightsWarning, match="is summed for 1"):
        model = densespec.build(spec, backend="numpy", weights=arrays, in_channels=1)
    fitted = densespec.read_weights(model)["stem.conv.kernel"]
    np.testing.assert_allclose(fitted, arrays["stem.conv.kernel"].sum(1, keepdims=True), 1e-6)


@pytest.mark.parametrize(
    ("spec", "channels", "reason"),
    [
        (
            tiny(in_channels=5),
            4,
            "weights for 5 channels can't be fitted to 4: there is a rule for",
        ),
        (tiny(stem_kind="norm-relu-conv"), 1, "the network normalises each channel of its input"),
    ],
    ids=["many channels to others", "a norm of the input"],
)
def test_what_there_is_no_rule_for_is_refused(spec: object, channels: int, reason: str) -> None:
    model = densespec.build(spec, backend="numpy")  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=reason):
        densespec.build(backend="numpy", weights=model, in_channels=channels)


def test_transfer_takes_other_channels() -> None:
    arrays = initial_weights(lower(tiny()), 0)
    with pytest.warns(WeightsWarning, match="is summed for 1"):
        model = densespec.transfer(
            tiny(), classes=2, backend="numpy", weights=arrays, in_channels=1
        )
    assert model.densespec.graph.spec.in_channels == 1
