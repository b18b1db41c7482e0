"""Data sets of items by index, as torch's and Hugging Face's are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from densespec import data
from densespec.data import DataError


class Pairs:
    """As a ``torch.utils.data.Dataset``: images (3, 4, 5) and a class each."""

    classes = ("cat", "dog")

    def __init__(self, count: int = 10) -> None:
        self.count, self.read = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        self.read += 1
        return np.full((3, 4, 5), index / 10, np.float32), index % 2


class Table:
    """As a data set of Hugging Face's: columns by name, items that are tables."""

    column_names = ("image", "label")

    def __init__(self, images: list[Any], labels: list[Any], names: Any = ("cat", "dog")) -> None:
        self.columns = {"image": images, "label": labels}
        self.features = {"label": type("ClassLabel", (), {"names": names})}

    def __len__(self) -> int:
        return len(self.columns["label"])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self.columns[index]
        return {name: column[index] for name, column in self.columns.items()}


def test_pairs_are_read_when_they_are_needed() -> None:
    items = Pairs()
    found = data.of_items(items)
    assert found.classes == ("cat", "dog")
    assert (len(found.train), len(found.test), found.size) == (8, 2, None)
    assert found.normalisation.scale == 1.0
    before = items.read
    batches = data.Batches(found.train, found.normalisation, batch_size=4, size=(4, 5))
    x, y = batches[0]
    assert (x.shape, items.read - before) == ((4, 3, 4, 5), 4)
    mean, std = found.normalisation.mean[0], found.normalisation.std[0]
    indices = np.rint((x[:, 0, 0, 0] * std + mean) * 10)
    np.testing.assert_array_equal(indices % 2, y)


def test_tables_of_pictures() -> None:
    image = pytest.importorskip("PIL.Image")
    pictures = [image.new("RGBA", (5, 4), (index, 0, 0, 128)) for index in range(10)]
    found = data.of_items(Table(pictures, [0, 1] * 5))
    assert found.classes == ("cat", "dog")
    assert found.normalisation.scale == 255
    assert found.train.image(0).shape == (3, 4, 5)
    grey = data.of_items(Table(pictures, [0, 1] * 5), channels=1)
    assert grey.train.shape == (1, None, None)


def test_several_labels_and_volumes() -> None:
    volumes = [np.zeros((1, 2, 3, 4), np.uint8) for _ in range(10)]
    labels = [np.array([index % 2, np.nan]) for index in range(10)]
    found = data.of_items(
        list(zip(volumes, labels, strict=True)), channels=1, classes=("a", "b"), name="scans"
    )
    assert found.has_several
    assert found.train.shape == (1, None, None, None)
    assert found.train.image(0).shape == (1, 2, 3, 4)
    found.check_loss("sigmoid")


def test_intensities_that_are_no_pictures_are_measured() -> None:
    values = np.arange(20.0).reshape(10, 2) * 100 - 500
    items = [(np.tile(v[:, None, None], (1, 4, 4)), 0) for v in values]
    found = data.of_items(items, channels=2)
    seen = np.stack([found.train.image(i)[:, 0, 0] for i in range(len(found.train))])
    np.testing.assert_allclose(found.normalisation.mean, seen.mean(0))
    np.testing.assert_allclose(found.normalisation.std, seen.std(0))
    assert not found.normalisation.is_share


def test_a_part_to_test_on_is_taken_as_it_is() -> None:
    found = data.of_items(Pairs(6), Pairs(3), classes=("x", "y"))
    assert (len(found.train), len(found.test), found.classes) == (6, 3, ("x", "y"))


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (iter([1]), {}, "have no length or no index: a stream has no order"),
        ([], {}, "there are no items"),
        ([3], {}, "item 0 is of type int, but should be .image, label."),
        ([{"photo": 1, "label": 1}], {}, "item 0 has photo, label, but none of image, img"),
        ([(np.zeros((3, 4, 4), int), 0)], {}, "item 0: it is of type int64, but should be uint8"),
        ([(np.zeros((3, 4, 4)), 0)] * 9, {"channels": 1}, "has shape .3, 4, 4., but should have 1"),
        ([(np.full((3, 4, 4), np.nan), 0)] * 9, {}, "image of item 0: it has a value that is not"),
        ([(np.zeros(4), 0)], {}, "but should have"),
    ],
)
def test_items_that_are_no_images_and_labels_are_refused(
    items: Any, options: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        data.of_items(items, **options).train.image(0)
