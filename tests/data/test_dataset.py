"""Data sets: what is checked when they are made, and whether a network fits them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from densespec import DenseNetSpec
from densespec.data import DataError, Dataset, Normalisation, Split, fits
from densespec.data.dataset import channels_first
from densespec.errors import SpecError
from tests.data.samples import dataset, images

X, Y = images(10, size=(8, 8)), np.arange(10) % 2
SPEC = DenseNetSpec(blocks=(1, 1), growth_rate=4, classes=5)


def floats(**changes: float) -> np.ndarray:
    x = X / np.float32(255)
    for place, value in changes.items():
        x[int(place.removeprefix("image")), 0, 0, 0] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        pytest.param(X.tolist(), Y, "x is of type list", id="a list"),
        pytest.param(X.astype(int), Y, "x is of type int64, but should be uint8", id="integers"),
        pytest.param(X[:, 0, 0], Y, "should have .count, channels", id="no sizes"),
        pytest.param(X[:9], Y, "x has 9 images and y 10 labels", id="another count"),
        pytest.param(X[:0], Y[:0], "there is nothing in it", id="empty"),
        pytest.param(X[..., :0], Y, "there is nothing in it", id="empty images"),
        pytest.param(X, Y / 2, "y has shape .10,. and type float64", id="labels of floats"),
        pytest.param(X, Y / 2 + 0.5, r"for a number an image, take y\[:, None\]", id="numbers"),
        pytest.param(X, Y.astype(float), r"take y\.astype\(int\)", id="whole floats"),
        pytest.param(floats(image7=np.nan), Y, "image 7 of x has a value", id="NaN"),
        pytest.param(floats(image3=np.inf), Y, "image 3 of x has a value", id="infinity"),
    ],
)
def test_arrays_that_are_no_split_are_refused(x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Split(x, y)


@pytest.mark.parametrize(("label", "at"), [(2, 4), (-1, 9)])
def test_a_label_out_of_range_is_told_with_its_place(label: int, at: int) -> None:
    wrong = Y.copy()
    wrong[at] = label
    message = f"test: label {at} is {label}, but should be from 0 to 1; 1 of 10 labels"
    with pytest.raises(DataError, match=message):
        Dataset.of(X, Y, X, wrong, classes=2)


def test_parts_must_go_together() -> None:
    with pytest.raises(DataError, match=r"shape \(3, 8, 8\), but those to test on \(3, 8, 5\)"):
        Dataset.of(X, Y, X[..., :5], Y)
    with pytest.raises(DataError, match="3 channels, but the normalisation 1"):
        Dataset.of(X, Y, X, Y, normalisation=Normalisation((0.5,), (0.5,)))
    with pytest.raises(DataError, match="give both test_x and test_y"):
        Dataset.of(X, Y, X)


def test_data_in_one_piece_are_parted_without_overlap() -> None:
    whole = images(50, size=(8, 8))
    found = Dataset.of(whole, np.arange(50) % 5)
    assert np.bincount(found.test.y).tolist() == [2] * 5
    parts = np.concatenate([np.asarray(found.train.x), np.asarray(found.test.x)])
    assert sorted(map(bytes, parts)) == sorted(map(bytes, whole))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="too few to keep a fifth"):
        Dataset.of(X[:4], np.arange(4))


# Channels


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 3, 8, 8), (5, 3, 8, 8)),
        ((5, 8, 8, 3), (5, 3, 8, 8)),
        ((5, 8, 7, 1), (5, 1, 8, 7)),
        ((5, 8, 7), (5, 1, 8, 7)),
        ((5, 4, 8, 8, 8), (5, 4, 8, 8, 8)),
    ],
)
def test_channels_are_found(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert channels_first(np.zeros(shape)).shape == expected


@pytest.mark.parametrize(("shape", "where"), [((5, 3, 8, 3), "both"), ((5, 8, 8, 8), "neither")])
def test_channels_that_can_be_told_from_sizes_only_by_the_user(
    shape: tuple[int, ...], where: str
) -> None:
    with pytest.raises(DataError, match=f"are in {where}; give channels_last"):
        channels_first(np.zeros(shape))
    assert channels_first(np.zeros(shape), channels_last=False).shape == shape
    assert channels_first(np.zeros(shape), channels_last=True).shape == (5, shape[3], *shape[1:3])


def test_moved_channels_keep_their_values() -> None:
    found = Dataset.of(X.transpose(0, 2, 3, 1), Y, X, Y)
    np.testing.assert_array_equal(found.train.x, X)


# Normalisation


@pytest.mark.parametrize("x", [X, floats()], ids=["bytes", "floats"])
def test_training_images_are_normalised_to_mean_0_and_deviation_1(x: np.ndarray) -> None:
    found = Dataset.of(x, Y, x[:2], Y[:2])
    normal = found.normalisation.apply(x, np.dtype("float64"))
    assert np.abs(normal.mean((0, 2, 3))).max() < 1e-9
    np.testing.assert_allclose(normal.std((0, 2, 3)), 1, rtol=1e-9)
    assert found.normalisation.scale == (255 if x.dtype == np.uint8 else 1)


def test_a_channel_that_never_changes_is_not_divided_by_zero() -> None:
    x = X.copy()
    x[:, 1] = 9
    found = Dataset.of(x, Y, x, Y).normalisation
    assert found.std[1] == 1
    assert (found.apply(x, np.dtype("float32"))[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("mean", "std"), [((0.1,), (0.1, 0.2)), ((), ()), ((0.0,), (0.0,)), ((float("nan"),), (1.0,))]
)
def test_a_normalisation_that_is_none_is_refused(mean: Any, std: Any) -> None:
    with pytest.raises(DataError):
        Normalisation(mean, std)


# Fitting a network


def test_a_network_that_fits_is_lowered_at_the_size_of_the_images() -> None:
    data = dataset(50, size=(8, 8))
    assert fits(data, SPEC).input.shape == (3, 8, 8)
    assert fits(data, SPEC, (16, 16)).input.shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SPEC.replace(classes=10), r"--classes 5, or spec.replace\(classes=5\)"),
        (SPEC.replace(in_channels=1), r"spec.replace\(in_channels=3\)"),
        (SPEC.replace(spatial_dims=3), r"spec.replace\(spatial_dims=2\)"),
    ],
)
def test_a_network_that_does_not_fit_is_told_what_to_change(
    spec: DenseNetSpec, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fits(dataset(50, size=(8, 8)), spec)


def test_images_that_are_too_small_for_a_network_are_refused() -> None:
    with pytest.raises(SpecError, match="nothing is left"):
        fits(dataset(50, size=(1, 1)), SPEC)
