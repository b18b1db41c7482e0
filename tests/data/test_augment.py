"""Augmentation: what it does to an image, how often, and that nothing but its address matters."""

from __future__ import annotations

import itertools
import math
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from densespec.data import Batches, DataError, Dataset
from densespec.data.augment import centred, random_box, resized
from densespec.data.draws import raw
from densespec.errors import UnknownName
from tests.data.samples import dataset, images, philox


def numbers_of(seed: int, epoch: int, start: int, count: int) -> list[int]:
    stream = philox((seed, zlib.crc32(b"augmentation")), epoch)
    return list(itertools.islice(stream, start, start + count))


def batches(data: Dataset, augmentation: str, **options: object) -> Batches:
    return Batches(data.train, data.normalisation, augmentation=augmentation, **options)  # type: ignore[arg-type]


def test_none_gives_normalised_images() -> None:
    data = dataset(20)
    x, y = batches(data, "none", batch_size=20, shuffle=False, dtype="float64")[0]
    pixels = np.asarray(data.train.x) / 255
    shape = (1, 3, 1, 1)
    mean, std = pixels.mean((0, 2, 3)).reshape(shape), pixels.std((0, 2, 3)).reshape(shape)
    np.testing.assert_allclose(x, (pixels - mean) / std, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(y, data.train.y)


@pytest.mark.parametrize("size", [(32, 32), (6, 9)])
def test_cifar_is_what_the_documentation_says(size: tuple[int, int]) -> None:
    data, (height, width) = dataset(12, size=size), size
    options = {"batch_size": 12, "shuffle": False, "seed": 3, "dtype": "float64"}
    plain, _ = batches(data, "none", **options)[0]
    found, _ = batches(data, "cifar", **options).batch(5, 0)
    for index in range(12):
        row, column, flip, _ = numbers_of(3, 5, 4 * index, 4)
        padded = np.pad(plain[index], ((0, 0), (4, 4), (4, 4)))
        crop = padded[:, row % 9 :, column % 9 :][:, :height, :width]
        np.testing.assert_array_equal(found[index], crop[..., ::-1] if flip % 2 else crop)


def test_cifar_takes_every_offset_and_flips_half() -> None:
    """Told from the images alone: pixel (16, 16) says where it is from."""
    place = np.arange(1024, dtype=np.float64).reshape(1, 1, 32, 32) + 1
    x = np.repeat(place, 4000, axis=0)
    data = Dataset.of(x, np.zeros(4000, int), x[:1], np.zeros(1, int), scale=1024)
    found, _ = batches(data, "cifar", batch_size=4000, dtype="float64").batch(1, 0)
    norm = data.normalisation
    values = np.rint((found * norm.std[0] + norm.mean[0]) * 1024).astype(int) - 1
    seen = Counter(
        (int(image[16, 16]) // 32 - 12, int(image[16, 17]) < int(image[16, 16]))
        for image in values[:, 0]
    )
    assert {offset for offset, _ in seen} == set(range(9))
    flips = sum(count for (_, flipped), count in seen.items() if flipped)
    assert abs(flips - 2000) < 5 * math.sqrt(1000)
    for offset in range(9):
        assert abs(seen[offset, True] + seen[offset, False] - 4000 / 9) < 5 * math.sqrt(4000 / 9)
    columns = Counter(int(image[16, 16]) % 32 for image in values[:, 0])
    assert set(columns) == set(range(11, 21))  # 12 to 20, and 11 to 19 where flipped


@pytest.mark.parametrize("augmentation", ["cifar", "imagenet"])
def test_images_depend_on_their_address_alone(augmentation: str) -> None:
    data = dataset(30, size=(12, 12))
    views = [
        batches(data, augmentation, batch_size=size, shuffle=shuffle, seed=8, size=(12, 12))
        for size, shuffle in ((30, False), (7, True), (30, True), (4, False))
    ]
    seen = []
    for view in views:
        rows = np.concatenate([view.rows(2, step) for step in range(len(view))])
        x = np.concatenate([view.batch(2, step)[0] for step in reversed(range(len(view)))][::-1])
        seen.append(x[np.argsort(rows)])
    for other in seen[1:]:
        np.testing.assert_array_equal(seen[0], other)


@pytest.mark.parametrize("augmentation", ["cifar", "imagenet"])
@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 1}])
def test_images_differ_between_epochs_and_seeds(augmentation: str, change: dict[str, int]) -> None:
    data = dataset(30, size=(12, 12))
    address = {"epoch": 0, "seed": 0}
    first, second = (
        batches(data, augmentation, batch_size=30, shuffle=False, seed=at["seed"]).batch(
            at["epoch"], 0
        )[0]
        for at in (address, address | change)
    )
    assert sum(not np.array_equal(a, b) for a, b in zip(first, second, strict=True)) > 25


# imagenet


@pytest.mark.parametrize(
    ("height", "width", "largest"), [(375, 500, 1.0), (500, 333, 444 / 500), (40, 40, 1.0)]
)
def test_boxes_of_imagenet_have_the_documented_areas_and_aspects(
    height: int, width: int, largest: float
) -> None:
    boxes = [random_box(raw(0, "boxes", n, 24), height, width) for n in range(1500)]
    areas, aspects = [], []
    for top, left, h, w in boxes:
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        areas.append(h * w / (height * width))
        aspects.append(w / h)
    rounding = 1 / math.sqrt(0.08 * height * width)
    assert 0.08 * (1 - 2 * rounding) <= min(areas) < 0.1
    assert 0.9 * largest < max(areas) <= largest
    assert 3 / 4 * (1 - 2 * rounding) <= min(aspects) < 0.78
    assert 1.3 < max(aspects) <= 4 / 3 * (1 + 2 * rounding)
    assert abs(np.mean(np.log(aspects))) < 0.05


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        pytest.param(10, 400, (0, 193, 10, 13), id="wide"),
        pytest.param(300, 12, (142, 0, 16, 12), id="high"),
    ],
)
def test_an_image_that_no_box_fits_gives_its_middle(
    height: int, width: int, box: tuple[int, ...]
) -> None:
    large = np.full(24, 2**64 - 1, np.uint64)  # the whole area
    assert random_box(large, height, width) == box


def test_imagenet_is_what_the_documentation_says() -> None:
    data = dataset(5, size=(20, 30))
    options = {"batch_size": 5, "shuffle": False, "seed": 6, "size": (8, 8), "dtype": "float64"}
    found, _ = batches(data, "imagenet", **options).batch(2, 0)
    flips = []
    for index, image in enumerate(np.asarray(data.train.x[:5])):
        numbers = np.array(numbers_of(6, 2, 24 * index, 24), np.uint64)
        top, left, height, width = random_box(numbers, 20, 30)
        box = (left, top, left + width, top + height)
        cut = Image.fromarray(image.transpose(1, 2, 0)).crop(box)
        pixels = np.asarray(cut.resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        flips.append(int(numbers[22]) % 2)
        pixels = pixels[..., ::-1] if flips[-1] else pixels
        expected = data.normalisation.apply(pixels[None], np.dtype("float64"))[0]
        np.testing.assert_array_equal(found[index], expected)
    assert set(flips) == {0, 1}


# Evaluation


@pytest.mark.parametrize(
    ("before", "inner"),
    [((300, 400), (256, 341)), ((500, 333), (384, 256)), ((90, 90), (256, 256))],
)
def test_evaluation_takes_the_middle_of_256_for_224(
    before: tuple[int, int], inner: tuple[int, int]
) -> None:
    image = images(1, size=before)[0]
    large = Image.fromarray(image.transpose(1, 2, 0)).resize(inner[::-1], Image.Resampling.BILINEAR)
    top, left = (inner[0] - 224) // 2, (inner[1] - 224) // 2
    expected = np.asarray(large)[top : top + 224, left : left + 224].transpose(2, 0, 1)
    np.testing.assert_array_equal(centred(image, (224, 224)), expected)


def test_an_image_that_has_the_size_is_left_as_it_is() -> None:
    image = images(1, size=(224, 224))[0]
    assert centred(image, (224, 224)) is image


def test_floats_are_resized_too() -> None:
    image = np.tile(np.linspace(0, 1, 16), (1, 16, 1))
    found = centred(image, (4, 4))
    assert found.dtype == image.dtype
    assert (np.diff(found[0], axis=1) > 0).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_channel_is_resized_alone(channels: int) -> None:
    image = np.random.default_rng(channels).integers(0, 256, (channels, 40, 53), np.uint8)
    for size in ((17, 90), (64, 21), (40, 53)):
        alone = [resized(plane[None], size)[0] for plane in image]
        np.testing.assert_array_equal(resized(image, size), alone)


def test_what_can_not_be_resized_is_refused() -> None:
    with pytest.raises(DataError, match="too long"):
        centred(np.zeros((1, 2, 900), np.uint8), (4, 4))


def test_volumes_are_brought_to_a_size_along_each_axis_as_pillow_does_it() -> None:
    image = pytest.importorskip("PIL.Image")
    plane = np.random.default_rng(1).random((9, 14)).astype(np.float32)
    found = centred(np.stack([plane] * 3)[None], (6, 5, 17))
    assert (found.shape, found.dtype) == ((1, 6, 5, 17), np.float32)
    picture = image.fromarray(plane).resize((17, 5), image.Resampling.BILINEAR)
    for slice_ in found[0]:
        np.testing.assert_allclose(slice_, np.asarray(picture), atol=1e-6)
    assert centred(np.ones((2, 5)), (3,)).shape == (2, 3)


def test_augmentations_are_for_two_dimensions_and_known_by_name() -> None:
    with pytest.raises(DataError, match="images of two dimensions, not 3"):
        batches(dataset(10, size=(4, 4, 4)), "cifar")
    with pytest.raises(UnknownName, match="Did you mean cifar"):
        batches(dataset(10), "cifer")
