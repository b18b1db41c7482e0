"""Operations on images: what each does, and that nothing but its address matters."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from densespec.data import Batches, DataError, Dataset
from densespec.data.draws import raw, unit
from densespec.data.operations import OPERATIONS, colours, planes
from densespec.data.operations.mixing import beta
from densespec.data.operations.picture import Picture
from densespec.data.operations.rand_augment import LIST
from densespec.errors import SpecError
from densespec.recipes.recipe import TrainingRecipe
from tests.data.samples import dataset, philox

ALL: dict[str, Any] = {"rand_augment": 2, "rotation": 20, "colour": 0.4, "erasing": 0.5}
BLACK = np.zeros((3, 1, 1), np.float32)


def batches(data: Dataset, recipe: TrainingRecipe, **options: Any) -> Batches:
    plain = {"shuffle": False, "dtype": "float64", "batch_size": len(data.train)}
    return Batches.for_training(data, recipe, **(plain | options))


def numbers_of(text: bytes, position: int, start: int, count: int, seed: int = 0) -> list[int]:
    stream = philox((seed, zlib.crc32(text)), position)
    return list(itertools.islice(stream, start, start + count))


def pixels_of(data: Dataset, x: np.ndarray) -> np.ndarray:
    """Pixels from 0 to 1 of normalised images."""
    norm = data.normalisation
    shape = (1, -1, *[1] * (x.ndim - 2))
    return x * np.reshape(norm.std, shape) + np.reshape(norm.mean, shape)


def picture(seed: int = 0) -> tuple[Picture, Image.Image]:
    draw = np.random.default_rng(seed)
    bytes_ = (draw.random((40, 31, 3)) ** 2 * 200 + 20).astype(np.uint8)
    pixels = bytes_.transpose(2, 0, 1).astype(np.float32) / 255
    return Picture(pixels, BLACK), Image.fromarray(bytes_)


# The operations


def test_without_any_nothing_changes() -> None:
    data = dataset(6)
    with_recipe, without = batches(data, TrainingRecipe()), batches(data, TrainingRecipe())
    object.__setattr__(without, "recipe", None)
    np.testing.assert_array_equal(with_recipe[0][0], without[0][0])


@pytest.mark.parametrize("field", ALL)
def test_images_depend_on_their_address_alone(field: str) -> None:
    data, recipe = dataset(20, size=(12, 12)), TrainingRecipe(**{field: ALL[field]}, seed=8)
    seen = []
    for size, shuffle in ((20, False), (7, True), (3, False)):
        view = batches(data, recipe, batch_size=size, shuffle=shuffle)
        rows = np.concatenate([view.rows(2, step) for step in range(len(view))])
        x = np.concatenate([view.batch(2, step)[0] for step in range(len(view))])
        seen.append(x[np.argsort(rows)])
    for other in seen[1:]:
        np.testing.assert_array_equal(seen[0], other)
    plain = batches(data, TrainingRecipe())[0][0]
    assert sum(not np.allclose(a, b, atol=1e-9) for a, b in zip(seen[0], plain, strict=True)) >= 5
    again = batches(data, recipe).batch(3, 0)[0]
    assert not np.allclose(again, seen[0])


@pytest.mark.parametrize(
    ("ours", "theirs", "bytes_off"),
    [
        pytest.param(colours.equalize, ImageOps.equalize, 0, id="equalize"),
        pytest.param(
            lambda p: colours.posterize(p, 4), lambda i: ImageOps.posterize(i, 4), 0, id="posterize"
        ),
        pytest.param(lambda p: colours.solarize(p, 128 / 255), ImageOps.solarize, 0, id="solarize"),
        pytest.param(colours.autocontrast, ImageOps.autocontrast, 1, id="autocontrast"),
        *(
            pytest.param(
                lambda p, change=change, f=f: change(p, f),
                lambda i, kind=kind, f=f: kind(i).enhance(f),
                1,
                id=f"{kind.__name__} {f}",
            )
            for change, kind in (
                (colours.brightness, ImageEnhance.Brightness),
                (colours.contrast, ImageEnhance.Contrast),
                (colours.saturation, ImageEnhance.Color),
                (colours.sharpness, ImageEnhance.Sharpness),
            )
            for f in (0.5, 1.5)
        ),
    ],
)
def test_colours_change_as_pillow_changes_them_but_for_its_bytes_between(
    ours: Callable[[np.ndarray], np.ndarray],
    theirs: Callable[[Image.Image], Image.Image],
    bytes_off: int,
) -> None:
    given, image = picture()
    expected = np.asarray(theirs(image)).transpose(2, 0, 1) / 255
    difference = np.abs(ours(given.pixels) - expected).max() * 255
    assert difference <= bytes_off + 1e-3


@pytest.mark.parametrize("degrees", [17, 90, -30])
def test_planes_turn_as_pillow_turns_them(degrees: float) -> None:
    given, image = picture()
    expected = np.asarray(image.rotate(degrees, Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    inner = np.abs(planes.rotated(given, degrees) - expected)[:, 12:-12, 10:-10]
    assert inner.max() * 255 <= 1


def test_planes_shift_and_slant_by_whole_pixels_exactly() -> None:
    plane = np.arange(1.0, 10).reshape(1, 3, 3)
    given = Picture(plane, np.zeros((1, 1, 1)))
    np.testing.assert_array_equal(planes.shifted(given, 1, 0)[0], [[0, 0, 0], *plane[0, :2]])
    np.testing.assert_array_equal(planes.shifted(given, 0, -1)[0][:, :2], plane[0, :, 1:])
    slanted = planes.sheared(given, 1, 0)[0]
    np.testing.assert_array_equal(slanted, [[0, 1, 2], [4, 5, 6], [8, 9, 0]])
    np.testing.assert_array_equal(planes.sheared(given, 0, 1)[0], [[0, 2, 6], [1, 5, 9], [4, 8, 0]])
    np.testing.assert_allclose(planes.rotated(given, 90)[0], np.rot90(plane[0]), atol=1e-12)


def test_every_plane_of_a_volume_is_moved_alike() -> None:
    draw = np.random.default_rng(0)
    volume = draw.random((2, 3, 8, 7))
    fill = draw.random((2, 1, 1, 1))
    turned = planes.rotated(Picture(volume, fill), 25)
    for depth in range(3):
        alone = planes.rotated(Picture(volume[:, depth], fill[:, 0]), 25)
        np.testing.assert_array_equal(turned[:, depth], alone)


def test_what_comes_in_from_outside_has_the_mean_colour() -> None:
    data = dataset(4, size=(9, 9))
    recipe = TrainingRecipe(rotation=180, seed=1)
    x, _ = batches(data, recipe)[0]
    assert (np.abs(x[..., 0, 0]).max(1) < 1e-9).any()


def test_rotation_is_what_the_documentation_says() -> None:
    data, recipe = dataset(5, size=(9, 9)), TrainingRecipe(rotation=30, seed=3)
    plain = pixels_of(data, batches(data, TrainingRecipe())[0][0])
    found = pixels_of(data, batches(data, recipe).batch(2, 0)[0])
    fill = np.reshape(data.normalisation.mean, (3, 1, 1))
    for index in range(5):
        number = numbers_of(b"rotation", 2, 4 * index, 4, seed=3)[0]
        degrees = (2 * (number >> 11) * 2.0**-53 - 1) * 30
        expected = planes.rotated(Picture(plain[index], fill), degrees)
        np.testing.assert_allclose(found[index], expected, atol=1e-12)


def test_colour_is_what_the_documentation_says() -> None:
    data, recipe = dataset(5), TrainingRecipe(colour=0.5)
    plain = np.clip(pixels_of(data, batches(data, TrainingRecipe())[0][0]), 0, 1)
    found = pixels_of(data, batches(data, recipe).batch(1, 0)[0])
    changes = (colours.brightness, colours.contrast, colours.saturation)
    for index in range(5):
        *three, last = numbers_of(b"colour", 1, 4 * index, 4)
        expected = plain[index]
        for which in [*itertools.permutations(range(3))][last % 6]:
            expected = changes[which](expected, 1 + (2 * (three[which] >> 11) * 2.0**-53 - 1) * 0.5)
        np.testing.assert_allclose(found[index], expected, atol=1e-12)


def test_rand_augment_does_the_operations_of_its_list() -> None:
    data, recipe = dataset(40, size=(12, 12)), TrainingRecipe(rand_augment=2, rand_magnitude=15)
    plain = pixels_of(data, batches(data, TrainingRecipe())[0][0])
    found = pixels_of(data, batches(data, recipe).batch(1, 0)[0])
    fill, done = np.reshape(data.normalisation.mean, (3, 1, 1)), set()
    for index in range(40):
        numbers = numbers_of(b"rand_augment", 1, 8 * index, 8)
        expected = Picture(plain[index], fill)
        for number, direction in (numbers[:2], numbers[4:6]):
            row = LIST[number % 14]
            m = -0.5 if row.signed and direction % 2 else 0.5
            expected = expected.changed(row.of(expected, m))
            done.add(row.name)
        np.testing.assert_allclose(found[index], expected.pixels, atol=1e-9, err_msg=str(index))
    assert len(done) == len(LIST) == 14


@pytest.mark.parametrize("row", LIST, ids=[row.name for row in LIST])
def test_no_operation_does_anything_where_its_size_is_nought(row: Any) -> None:
    given, _ = picture()
    changed = row.of(given, 0.0)
    if row.about:
        np.testing.assert_allclose(changed, given.pixels, atol=1e-6)
    assert changed.shape == given.pixels.shape
    assert changed.dtype == given.pixels.dtype


@pytest.mark.parametrize("size", [(24, 30), (14, 16, 18), (200,)])
def test_erasing_fills_boxes_of_the_documented_sizes(size: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    x = draw.random((60, 2, *size))
    data = Dataset.of(x, np.arange(60) % 2, x[:2], np.array([0, 1]), channels_last=False)
    found, _ = batches(data, TrainingRecipe(erasing=0.5))[0]
    erased = np.abs(found) < 1e-9
    parts = erased.all(1).reshape(60, -1).mean(1)
    assert 15 < (parts > 0).sum() < 45
    rounding = 1.5 / min(size)
    assert parts[parts > 0].min() > 0.02 * (1 - rounding)
    assert parts.max() < (1 / 3) * (1 + 2 * rounding)
    for one in erased[parts > 0].all(1):
        corners = np.argwhere(one)
        sides = corners.max(0) - corners.min(0) + 1
        assert one.sum() == math.prod(sides)


def test_erased_boxes_may_be_normal_noise() -> None:
    x = np.random.default_rng(0).random((20, 3, 32, 32))
    data = Dataset.of(x, np.arange(20) % 2, x[:2], np.array([0, 1]), channels_last=False)
    recipe = TrainingRecipe(batch_size=20, erasing=1)
    boxes, noisy = (
        batches(data, recipe.replace(erasing_fill=fill))[0][0] for fill in ("mean", "noise")
    )
    erased = np.abs(boxes) < 1e-9
    assert np.array_equal(boxes[~erased], noisy[~erased])
    found = noisy[erased]
    assert found.size > 3000
    assert abs(found.mean()) < 0.05
    assert found.std() == pytest.approx(1, abs=0.05)
    assert np.unique(found).size == found.size
    tails = np.mean(np.abs(found) > 2)
    assert tails == pytest.approx(0.0455, abs=0.012)


def test_operations_are_done_in_the_order_of_their_table() -> None:
    assert [operation.field for operation in OPERATIONS] == list(ALL)


def test_colours_of_what_is_no_image_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(10, 1, 6, 6))
    data = Dataset.of(x, np.arange(10) % 2, x[:2], np.array([0, 1]), channels_last=False)
    with pytest.raises(DataError, match=r"pixels lie from -.* give the scale of full intensity"):
        batches(data, TrainingRecipe(colour=0.5))[0]
    batches(data, TrainingRecipe(rotation=5, erasing=1))[0]


def test_planes_are_of_two_dimensions_at_least() -> None:
    x = np.random.default_rng(0).random((10, 1, 6))
    data = Dataset.of(x, np.arange(10) % 2, x[:2], np.array([0, 1]), channels_last=False)
    for field in ("rotation", "rand_augment"):
        with pytest.raises(DataError, match=f"{field} is for images of at least 2 dimensions"):
            batches(data, TrainingRecipe(**{field: 1}))
    batches(data, TrainingRecipe(colour=0.5, erasing=1, mixup=0.2))[0]


# Mixtures


@pytest.mark.parametrize("a", [0.1, 0.4, 1, 3])
def test_shares_are_of_the_beta_distribution(a: float) -> None:
    shares = np.array([beta(unit(raw(0, "shares", n, 4)), a) for n in range(4000)])
    assert (shares >= 0).all()
    assert (shares <= 1).all()
    variance = 1 / (4 * (2 * a + 1))
    assert abs(shares.mean() - 0.5) < 5 * math.sqrt(variance / 4000)
    fourth = 3 / (16 * (2 * a + 1) * (2 * a + 3))  # of a symmetric beta, about its mean
    assert abs(shares.var() - variance) < 5 * math.sqrt((fourth - variance**2) / 4000)


def test_mixup_mixes_each_image_and_label_with_the_one_before() -> None:
    data, recipe = dataset(6), TrainingRecipe(mixup=0.5, seed=2)
    mixtures = batches(data, recipe, batch_size=4)
    for step in (0, 1, 2):
        plain, labels = batches(data, TrainingRecipe(seed=2), batch_size=4)[step]
        x, shares = mixtures[step]
        share = beta(unit(np.array(numbers_of(b"mix", step, 0, 8, seed=2), np.uint64)), 0.5)
        np.testing.assert_allclose(x, share * plain + (1 - share) * np.roll(plain, 1, 0))
        one_hot = np.eye(len(data.classes))[labels]
        np.testing.assert_allclose(shares, share * one_hot + (1 - share) * np.roll(one_hot, 1, 0))
        assert shares.dtype == np.float64


@pytest.mark.parametrize("size", [(8, 6), (5, 6, 7), (9,)])
def test_cutmix_takes_a_box_of_the_image_before(size: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random((4, 2, *size))
    y = np.arange(4) % 4
    data = Dataset.of(x, y, x, y, channels_last=False)
    plain, _ = batches(data, TrainingRecipe())[0]
    recipe = TrainingRecipe(cutmix=1.0)
    boxes = 0
    for epoch in range(8):
        found, shares = batches(data, recipe).batch(epoch, 0)
        others = np.roll(plain, 1, 0)
        taken = (found == others).all(1)
        np.testing.assert_array_equal(np.where(taken[:, None], others, plain), found)
        part = taken[0].mean()
        boxes += 0 < part < 1
        expected = (1 - part) * np.eye(4) + part * np.roll(np.eye(4), 1, 0)
        np.testing.assert_allclose(shares, expected)
        corners = np.argwhere(taken[0])
        if len(corners):
            assert len(corners) == math.prod(corners.max(0) - corners.min(0) + 1)
    assert boxes >= 4


def test_with_both_a_batch_is_mixed_by_either() -> None:
    data = dataset(4)
    both, mixup, cutmix = (
        batches(data, TrainingRecipe(**fields))
        for fields in ({"mixup": 0.5, "cutmix": 1.0}, {"mixup": 0.5}, {"cutmix": 1.0})
    )
    kinds = []
    for step in range(12):
        odd = numbers_of(b"mix", step, 0, 1)[0] % 2
        np.testing.assert_array_equal(both[step][0], (cutmix if odd else mixup)[step][0])
        kinds.append(odd)
    assert {*kinds} == {0, 1}


def test_what_is_not_known_of_either_image_is_not_known() -> None:
    x = np.random.default_rng(0).random((3, 1, 4, 4))
    y = np.array([[1.0, -1, 0], [1, 1, np.nan], [0, 1, 1]])
    data = Dataset.of(x, y, x, y, channels_last=False)
    _, labels = batches(data, TrainingRecipe(mixup=1.0, loss="sigmoid"))[0]
    np.testing.assert_array_equal(
        np.isnan(labels), [[False, True, False], [False, True, True], [False, False, True]]
    )


def test_recipes_have_bounds_for_them() -> None:
    for field, value in (("rand_augment", 11), ("rotation", 181), ("colour", 1.1), ("mixup", -1)):
        with pytest.raises(SpecError, match=field):
            TrainingRecipe(**{field: value})
